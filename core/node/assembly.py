"""Open a prepared node and close it again: folder, chain, kernel, surface."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from supervm.chain.component import LedgerConfig, LedgerOptions, ledger_component
from supervm.config import ConfigErrors, ConfigProblem, PluginsConfig, as_text, options_from_text
from supervm.contracts.roles import ROLES, Role
from supervm.hardware import fastpath
from supervm.http.component import http_component
from supervm.kernel.component import Backoff, Breaker, Component, RoleSpec
from supervm.kernel.compose import Planned
from supervm.kernel.context import SystemClock
from supervm.kernel.errors import KernelError
from supervm.kernel.observe import Observers
from supervm.kernel.supervise import Environment, Kernel, Timing, open_kernel
from supervm.node.adopting import adopt, takes_snapshots
from supervm.node.auditing import Audited, audited
from supervm.node.catalogue import OBSERVED, http_routes
from supervm.node.chain import OwnChain, open_chain
from supervm.node.compose import Prepared, plan
from supervm.node.control import Control
from supervm.node.facts import Facts
from supervm.node.moving import Mover
from supervm.node.reprobe import compare_with_last, report_changes
from supervm.node.watchdog import watchdog
from supervm.storage.folder import DataFolder, open_folder
from supervm.telemetry.logs import Logs
from supervm.telemetry.metrics import Registry
from supervm.telemetry.process import register_process
from supervm.types.genesis import GenesisGas

LEDGER = "application.ledger"
INSIDE = {LEDGER: LedgerOptions}
"""The configuration of the node's own components, by section."""


class SurfaceFailed(KernelError):
    """The API could not be opened; the message is its cause."""


@attrs.frozen(kw_only=True)
class Node:
    """A running node. `address` is where the API listens, HOST:PORT."""

    prepared: Prepared
    kernel: Kernel
    facts: Facts
    folder: DataFolder
    chain: OwnChain
    address: str


@asynccontextmanager
async def open_node(prepared: Prepared, logs: Logs) -> AsyncIterator[Node]:
    """Run a prepared node for the length of the block; drain it at the end.

    Raises `CompositionError` before anything is written, `StorageError` for the data folder,
    `ChainUnusable`, `ConfigErrors`, `StartFailed`, `SurfaceFailed`, or `AuditBroken`.
    """
    clock, metrics = SystemClock(), Registry()
    routes, silent = http_routes(prepared.catalogue)
    log = logs.logger("node")
    for plugin, cause in silent.items():
        log.warning("plugin_routes_left_out", plugin=plugin, cause=cause)
    facts = Facts(prepared.catalogue, metrics, prepared.machine.decision.tier, routes)
    ledger, http = ledger_component(), http_component(facts)
    http_config = prepared.effective.sections["api"]
    options = prepared.effective.options[Role.APPLICATION, ledger.name]
    if http_config.token:
        logs.protect(http_config.token)
    planned = plan(prepared, [(ledger, options), (http, http_config)])
    with (
        open_folder(prepared.data, prepared.storage) as folder,
        audited(prepared, folder.path, clock, log) as audit,
    ):
        tier = prepared.machine.decision.tier
        await trio.to_thread.run_sync(compare_with_last, folder.path, tier, log)
        chain = await trio.to_thread.run_sync(
            open_chain, folder.path, _genesis(prepared), prepared.node.name, _gas(prepared)
        )
        planned = _with_chain(prepared, planned, ledger, chain)
        await adopt(prepared, folder.path, chain.genesis, logs, log)
        mover = Mover(prepared=prepared, folder=folder.path, clock=clock, logs=logs)
        planned = tuple(
            attrs.evolve(one, component=mover.movable(one.component))
            if one.component.role == Role.STORAGE
            else one
            for one in planned
        )
        _register(metrics, logs, prepared, clock)
        environment = Environment(
            data_dir=folder.path,
            tier=tier,
            hardware=prepared.machine.facts,
            clock=clock,
            metrics=metrics,
            log_for=logs.logger,
            timing=_timing(prepared.effective.sections["plugins"]),
        )
        observers = Observers(
            prepared.catalogue.manager,
            OBSERVED,
            clock,
            logs.logger("observers"),
            metrics,
            prepared.effective.sections["plugins"].observer_queue,
        )
        async with (
            watchdog(log, metrics, lambda: facts.kernel.opening() if facts.kernel else ()),
            open_kernel(_roles(prepared), environment, observers, planned) as kernel,
            # Inside the kernel: what ends this nursery must not end the drain.
            trio.open_nursery() as nursery,
        ):
            facts.kernel = kernel
            control = Control(kernel, facts, prepared.effective.sections["plugins"])
            facts.moves = mover
            facts.control = Audited(control, audit, log) if audit is not None else control
            nursery.start_soon(report_changes, prepared, clock, log)
            address = await _address(kernel)
            try:
                yield Node(
                    prepared=prepared,
                    kernel=kernel,
                    facts=facts,
                    folder=folder,
                    chain=chain,
                    address=address,
                )
            finally:
                facts.draining = True
                nursery.cancel_scope.cancel()


async def _address(kernel: Kernel) -> str:
    """Where the API listens. Raises `SurfaceFailed` when it doesn't."""
    for status in await kernel.wait_opened(Role.SURFACE):
        if status.name == "http" and status.causes:
            raise SurfaceFailed(status.causes[-1].partition(": ")[2])
    address: str = kernel.require(Role.SURFACE).address
    return address


def _genesis(prepared: Prepared) -> Path | None:
    named = prepared.node.genesis
    return Path(named).expanduser() if named else None


def _with_chain(
    prepared: Prepared, planned: tuple[Planned, ...], ledger: Component, chain: OwnChain
) -> tuple[Planned, ...]:
    """Give the ledger its chain, and the gas component the parameters that the genesis fixes (PLUG-1)."""
    gas = chain.genesis.gas
    chosen = next(one.component.name for one in planned if one.component.role == Role.GAS)
    if chosen != gas.component:
        problem = f"the chain's genesis fixes gas component {gas.component!r}, {chosen!r} is chosen"
        raise ConfigErrors([ConfigProblem("gas.use", problem, f"set gas.use = {gas.component}")])
    options = prepared.effective.options[Role.APPLICATION, ledger.name]
    config = LedgerConfig(
        genesis=chain.genesis,
        identity=chain.identity,
        options=options,
        data=str(prepared.data),
        backend=prepared.storage,
        takes_snapshots=takes_snapshots(prepared),
    )

    def configured(one: Planned) -> Planned:
        if one.component is ledger:
            return attrs.evolve(one, config=config)
        if one.component.role == Role.GAS:
            parameters = options_from_text(one.component.config, dict(gas.parameters), "genesis")
            return attrs.evolve(one, config=parameters)
        return one

    return tuple(configured(one) for one in planned)


def _gas(prepared: Prepared) -> GenesisGas:
    """What a development chain made here fixes: the gas component chosen, and its options that were set."""
    name = next(iter(prepared.effective.use[Role.GAS]))
    options = prepared.effective.options[Role.GAS, name]
    defaults = type(options)()
    set_here = [
        (field.name, as_text(getattr(options, field.name)))
        for field in attrs.fields(type(options))
        if getattr(options, field.name) != getattr(defaults, field.name)
    ]
    return GenesisGas(component=name, parameters=tuple(sorted(set_here)))


def _register(metrics: Registry, logs: Logs, prepared: Prepared, clock: SystemClock) -> None:
    logs.register(metrics)
    native = metrics.gauge(
        "supervm_fast_path_native", "1 where compiled code runs, 0 where its Python twin does", ("name",)
    )
    for name, path in fastpath.report().items():
        native.set(int(path.native), name=name)
    register_process(metrics, clock.wall_ms())
    metrics.gauge("supervm_tier", "The tier of this machine, 1 to 4").set(
        int(prepared.machine.decision.tier.removeprefix("L"))
    )
    for name, seconds in prepared.machine.report.seconds.items():
        metrics.gauge("supervm_probe_seconds", "How long a hardware probe took", ("probe",)).set(
            seconds, probe=name
        )
    failures = metrics.counter("supervm_probe_failures_total", "Hardware probes that failed", ("probe",))
    for name in prepared.machine.report.failures:
        failures.inc(probe=name)


def _timing(config: PluginsConfig) -> Timing:
    return Timing(
        open_timeout_s=config.open_timeout_s,
        drain_timeout_s=config.drain_timeout_s,
        close_timeout_s=config.close_timeout_s,
        health_interval_s=config.health_interval_s,
        health_timeout_s=config.health_timeout_s,
    )


def _roles(prepared: Prepared) -> dict[str, RoleSpec]:
    """The roles, with the operator's backoff and breaker."""
    config: PluginsConfig = prepared.effective.sections["plugins"]
    backoff = Backoff(initial_s=config.backoff_initial_s, max_s=config.backoff_max_s)
    breaker = Breaker(
        failures=config.breaker_failures, window_s=config.breaker_window_s, open_s=config.breaker_open_s
    )
    return {
        name: attrs.evolve(spec, supervision=attrs.evolve(spec.supervision, backoff=backoff, breaker=breaker))
        for name, spec in ROLES.items()
    }
