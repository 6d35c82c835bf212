"""`supervm devnet`: a whole network on this machine, each node a process of its own."""

import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import attrs
import click
import trio

from supervm.cli.errors import Failure, Misuse
from supervm.cli.output import json_option, note, print_facts

if TYPE_CHECKING:
    from supervm.node.devnet import Devnet, Member

VALIDATORS_MAX = 64
FOLLOWERS_MAX = 16
READY_S_MAX = 120.0
DRAIN_S = 20.0
POLL_S = 0.1
# A terminal that closes sends the last one, where there is such a signal.
STOPPING = tuple(
    each for each in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)) if each is not None
)


def _followers(kind: str, tier: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        f"--{kind}",
        type=click.IntRange(0, FOLLOWERS_MAX),
        default=0,
        show_default=True,
        help=f"How many nodes of tier {tier} follow.",
    )


@click.group()
def devnet() -> None:
    """Run a whole network on this machine: real processes and sockets.

    \b
    Example:
      supervm devnet up --validators 4
    """


@devnet.command()
@click.option(
    "--validators",
    type=click.IntRange(1, VALIDATORS_MAX),
    default=4,
    show_default=True,
    help="How many vote.",
)
@_followers("miners", "l2")
@_followers("edges", "l3")
@_followers("mobiles", "l4")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the network, which stays; a network in it goes on.  [default: a new one, removed]",
)
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after so long.")
@click.option(
    "--epoch-blocks",
    type=click.IntRange(1, 2**32),
    default=3_600,
    show_default=True,
    help="Blocks of an epoch of a new network.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the nodes' configuration, TOML."
)
@json_option
def up(
    validators: int,
    miners: int,
    edges: int,
    mobiles: int,
    data: Path | None,
    seconds: float | None,
    epoch_blocks: int,
    settings: tuple[str, ...],
    as_json: bool,
) -> int:
    """Start validators and nodes that follow them, say when all are ready, and stop all at Ctrl-C or SIGTERM.

    A node that ends by itself is named; the others go on. The addresses are new at every start.

    \b
    Example:
      supervm devnet up --validators 4
      supervm devnet up --validators 4 --edges 1 --mobiles 1
      supervm devnet up --data /tmp/net --seconds 60 --set storage.use=sqlite --json
    """
    followers = [
        (f"{kind}-{at}", tier)
        for kind, tier, count in (("miner", "l2", miners), ("edge", "l3", edges), ("mobile", "l4", mobiles))
        for at in range(count)
    ]

    def run(folder: Path) -> int:
        return trio.run(_up, folder, validators, followers, settings, epoch_blocks, seconds, as_json)

    if data is not None:
        return run(data.expanduser().resolve())
    with tempfile.TemporaryDirectory(prefix="supervm-devnet-") as made:
        return run(Path(made))


@devnet.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the network, as given to `devnet up`.",
)
@click.option("--name", default="follower", show_default=True, help="Its name, and its folder's.")
@json_option
def add(data: Path, name: str, as_json: bool) -> None:
    """Make one more node for a network: no validator, it catches up from them and follows.

    Again with the same name: it keeps its chain and gets the addresses of now.

    \b
    Example:
      supervm devnet add --data /tmp/net
      supervm run --config /tmp/net/follower.toml
    """
    from supervm.node.devnet import add_node

    if not name.replace("-", "").isalnum():
        raise Misuse(f"--name {name}: letters, digits and - make a name")
    try:
        member = add_node(data.expanduser().resolve(), name)
    except ValueError as error:
        raise Misuse(str(error)) from error
    facts = {
        "name": member.name,
        "config": str(member.config),
        "api": f"http://{member.api}",
        "node_id": f"0x{member.node_id.hex()}",
    }
    print_facts(facts, as_json)
    note(f"next: supervm run --config {member.config}")


@attrs.define
class _Process:
    member: "Member"
    process: trio.Process
    log: IO[bytes]


async def _up(
    folder: Path,
    validators: int,
    followers: Sequence[tuple[str, str]],
    settings: tuple[str, ...],
    epoch_blocks: int,
    seconds: float | None,
    as_json: bool,
) -> int:
    from supervm.node.devnet import add_node, make_devnet

    try:
        made = await trio.to_thread.run_sync(
            make_devnet, folder, validators, [_line(each) for each in settings], (), epoch_blocks
        )
        others = [await trio.to_thread.run_sync(add_node, folder, name, tier) for name, tier in followers]
    except ValueError as error:
        raise Misuse(str(error)) from error
    running: list[_Process] = []
    cause = ""
    try:
        with trio.open_signal_receiver(*STOPPING) as signals:
            for member in (*made.members, *others):
                await _start(member, running)
            async with trio.open_nursery() as nursery:
                stop = trio.Event()

                async def until_told() -> None:
                    async for _ in signals:
                        stop.set()

                nursery.start_soon(until_told)
                cause = await _serve(made, running, stop, seconds, as_json)
                nursery.cancel_scope.cancel()
            # A second Ctrl-C while the nodes drain must not leave them behind.
            with trio.CancelScope(shield=True):
                await _stop(running)
    finally:
        for each in running:
            if each.process.returncode is None:
                each.process.kill()
            each.log.close()
    if cause:
        raise Failure(cause)
    return 0


def _line(setting: str) -> str:
    """A setting as a line of TOML: what isn't a TOML value is taken for a text."""
    import json
    import tomllib

    key, separator, value = setting.partition("=")
    if not separator or not key or not value:
        raise Misuse(f"--set {setting}: write it as KEY=VALUE")
    try:
        tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:
        value = json.dumps(value)
    return f"{key.strip()} = {value}"


async def _start(member: "Member", running: list[_Process]) -> None:
    path = member.data.parent / f"{member.name}.log"
    log = path.open("ab")
    command = [sys.executable, "-m", "supervm", "run", "--config", str(member.config)]
    # In a group of its own: a terminal's Ctrl-C reaches us, and we tell the nodes.
    process = await trio.lowlevel.open_process(command, stdout=log, stderr=log, start_new_session=True)
    running.append(_Process(member, process, log))


async def _serve(
    made: "Devnet", running: list[_Process], stop: trio.Event, seconds: float | None, as_json: bool
) -> str:
    """Until told to stop. Gives why it must stop by itself; empty where it was told."""
    with trio.move_on_after(READY_S_MAX) as waiting:
        for each in running:
            while not stop.is_set() and not await trio.to_thread.run_sync(_is_ready, each.member.api):
                if each.process.poll() is not None:
                    return f"{each.member.name} ended before it was ready; {_last_words(each)}"
                await trio.sleep(POLL_S)
    if stop.is_set():
        return ""
    if waiting.cancelled_caught:
        return f"not all nodes were ready within {READY_S_MAX:g} s; see {made.folder}"
    _announce(made, running, as_json)
    return await _watch(running, stop, seconds)


async def _watch(running: list[_Process], stop: trio.Event, seconds: float | None) -> str:
    alive = list(running)
    with trio.CancelScope(shield=False) as scope:
        scope.deadline = trio.current_time() + seconds if seconds is not None else float("inf")
        while not stop.is_set() and alive:
            for each in [each for each in alive if each.process.poll() is not None]:
                alive.remove(each)
                note(
                    f"{each.member.name} ended with code {each.process.returncode}, the others go on; "
                    f"start it again: supervm run --config {each.member.config}"
                )
            with trio.move_on_after(POLL_S):
                await stop.wait()
    return "" if alive or stop.is_set() else "every node has ended"


def _is_ready(api: str) -> bool:
    from supervm.client.http import ClientError, NodeClient

    try:
        with NodeClient(f"http://{api}", timeout_s=2.0) as client:
            return client.ready()
    except ClientError:
        return False


def _last_words(each: _Process) -> str:
    path = Path(each.log.name)
    lines = path.read_text(errors="replace").splitlines()
    return f"{lines[-1] if lines else 'it said nothing'} ({path})"


def _announce(made: "Devnet", running: list[_Process], as_json: bool) -> None:
    facts: dict[str, Any] = {
        "folder": str(made.folder),
        "chain_id": f"0x{made.chain_id.hex()}",
        "key": str(made.key),
        "nodes": [
            {
                "name": each.member.name,
                "api": f"http://{each.member.api}",
                "peer": each.member.peer,
                "node_id": f"0x{each.member.node_id.hex()}",
                "pid": each.process.pid,
            }
            for each in running
        ],
    }
    print_facts(facts, as_json)
    sys.stdout.flush()
    if not as_json:
        first = made.members[0]
        note(f"next: supervm tx transfer dev=1 --data {made.folder} --node http://{first.api}")


async def _stop(running: list[_Process]) -> None:
    """Tell all to drain; kill whoever takes too long."""
    for each in running:
        if each.process.poll() is None:
            each.process.terminate()
    with trio.move_on_after(DRAIN_S):
        for each in running:
            await each.process.wait()
