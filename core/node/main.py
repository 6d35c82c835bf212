"""`supervm run`: prepare, open, serve until told to stop, drain; the exit code says how it went."""

import gc
import signal
import sys
from collections.abc import Callable

import attrs
import trio

from supervm.config import render
from supervm.contracts.roles import Role
from supervm.hardware import fastpath
from supervm.hardware.explain import one_line
from supervm.kernel.component import Log
from supervm.node.adopting import is_here
from supervm.node.allocator import fix_mapped_size
from supervm.node.assembly import INSIDE, Node, open_node
from supervm.node.chain import DEV_KEY, KEYS
from supervm.node.compose import Prepared, prepare
from supervm.node.facts import versions
from supervm.node.options import NodeOptions
from supervm.telemetry.logs import Logs, open_logs

DONE, COULD_NOT = 0, 1
GARBAGE_THRESHOLDS = (10_000, 20, 20)


def run(options: NodeOptions, *, once: bool = False, print_config: bool = False) -> int:
    """Run a node and return the exit code: 0 after a clean stop, 1 when a component made it stop.

    Raises what `prepare` and `open_node` raise; the command line turns it into one line.
    """
    fix_mapped_size()
    return trio.run(_run, options, once, print_config, restrict_keyboard_interrupt_to_checkpoints=True)


@attrs.define
class _Stop:
    """Asked to stop: by a signal, or because a component failed for good."""

    asked: trio.Event = attrs.Factory(trio.Event)
    cause: str = ""
    signalled: bool = False


async def _run(options: NodeOptions, once: bool, print_config: bool) -> int:
    prepared = await prepare(options, inside=INSIDE)
    if print_config:
        _say(render(prepared.effective).rstrip())
        return DONE
    with open_logs(prepared.effective.sections["logs"]) as logs:
        log = logs.logger("node")
        for note in prepared.notes:
            log.warning("composition", note=note)
        for note in _twins():
            log.warning("fast_path", note=note)
        for warning in prepared.machine.decision.warnings:
            log.warning("tier", note=warning)
        stop = _Stop()
        async with trio.open_nursery() as outside:
            with trio.CancelScope() as now:
                await outside.start(_signals, stop, now, log)
                while await _live(prepared, logs, stop, once):
                    log.info("begins_again", cause=stop.cause)
                    stop.cause, stop.asked = "", trio.Event()
            if now.cancelled_caught:
                stop.cause = stop.cause or "stopped at once, without draining"
            outside.cancel_scope.cancel()
        if stop.cause:
            _complain(stop.cause)
            return COULD_NOT
    return DONE


async def _live(prepared: Prepared, logs: Logs, stop: _Stop, once: bool) -> bool:
    """One life of the node. Gives whether it ended only to begin again, with a snapshot from peers."""
    async with open_node(prepared, logs) as node:
        _announce(node)
        _spare_the_collector()
        if not once:
            await _serve(node, stop)
        elif reasons := node.facts.not_ready():
            stop.cause = "; ".join(reasons)
    return bool(stop.cause) and not stop.signalled and is_here(prepared.data)


def _spare_the_collector() -> None:
    """Leave what opening made out of every later search for cycles: modules, code and tables.

    A full search through them takes 50 ms, in which nothing else runs. What blocks leave holds no cycles,
    so searching less often keeps next to nothing alive for longer.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


async def _serve(node: Node, stop: _Stop) -> None:
    """Wait for a signal, a fatal failure, or a snapshot from peers to begin again with."""

    async def watch() -> None:
        stop.cause = await node.kernel.wait_fatal()
        node.facts.fatal = stop.cause
        stop.asked.set()

    async def begin_again() -> None:
        await node.kernel.require(Role.APPLICATION).exchange.whole.wait()
        stop.cause = "a snapshot from peers is here"
        stop.asked.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        nursery.start_soon(begin_again)
        await stop.asked.wait()
        nursery.cancel_scope.cancel()


async def _signals(stop: _Stop, now: trio.CancelScope, log: Log, task_status: trio.TaskStatus[None]) -> None:
    """The first Ctrl-C or SIGTERM drains; another one cancels what drains."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as received:
        task_status.started()
        async for number in received:
            if stop.asked.is_set():
                now.cancel()
                return
            log.info("stopping", signal=signal.Signals(number).name)
            stop.signalled = True
            stop.asked.set()


def _announce(node: Node) -> None:
    """What was chosen, why, where the API is, and what to type next (TIER-61)."""
    known = versions()
    prepared, genesis = node.prepared, node.chain.genesis
    lines = [f"SuperVM {known['supervm']} ({known['kernel']}, plugin API {known['api']})"]
    lines.append(one_line(prepared.machine))
    lines += [f"note: {note}" for note in (*prepared.notes, *_twins())]
    lines += [f"made {what}" for what in node.chain.created]
    chosen = {role: ", ".join(names) for role, names in node.facts.composition().items()}
    lines.append("composed " + "; ".join(f"{role} {names}" for role, names in sorted(chosen.items())))
    lines.append(f"data {node.folder.path}")
    kind = "development chain" if genesis.development else "chain"
    lines.append(f"{kind} {genesis.name} 0x{genesis.chain_id.hex()}")
    lines.append(f"API http://{node.address}")
    lines.append(f"next: {_next(node)}")
    for line in lines:
        _say(line)


def _twins() -> list[str]:
    """Which fast paths run as their Python twins, and why (TIER-70)."""
    by_reason: dict[str, list[str]] = {}
    for name, path in fastpath.report().items():
        if not path.native:
            by_reason.setdefault(path.reason, []).append(name)
    return [f"{', '.join(names)}: in Python, not compiled: {reason}" for reason, names in by_reason.items()]


def _next(node: Node) -> str:
    """A command that works as it stands: on a development chain made here, the funded key pays itself."""
    where = f"--node http://{node.address}"
    if node.chain.genesis.development and (node.folder.path / KEYS / f"{DEV_KEY}.json").exists():
        return f"supervm tx transfer {DEV_KEY}=1 --data {node.folder.path} {where}"
    return f"supervm query status {where}"


def _writer(stream: Callable[[], object]) -> Callable[[str], None]:
    def write(text: str) -> None:
        try:
            print(text, file=stream(), flush=True)  # type: ignore[call-overload]
        except (OSError, ValueError):
            # Nobody reads: a node serves all the same.
            return

    return write


_say = _writer(lambda: sys.stdout)
_complain = _writer(lambda: sys.stderr)
