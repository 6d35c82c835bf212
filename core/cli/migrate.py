"""`supervm migrate`: move a node's folder to another storage backend, stopped or running."""

from pathlib import Path
from typing import Any

import click
import trio

from supervm.cli.output import json_option, print_facts, progress
from supervm.cli.snapshot import folder_options, node_options

LOOK_S = 0.5


@click.command()
@click.option("--to", "name", required=True, metavar="NAME", help="Storage component to move to, as rocksdb.")
@click.option("--api", metavar="URL", help="Have the running node there move its own store.")
@folder_options
@json_option
def migrate(
    name: str,
    api: str | None,
    data: Path | None,
    file: Path | None,
    settings: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy a node's store to another backend, compare both, and switch the folder to it.

    Every row is compared before the folder is switched; of a stopped node the state root is computed anew
    too. The old store stays where it is. Interrupted, it goes on when it is run again. A running node goes on
    meanwhile, then writes both, and opens the new one at its next start; its token is taken from
    SUPERVM_API_TOKEN.

    \b
    Example:
      supervm migrate --to rocksdb
      supervm migrate --to lmdb --data /srv/node --json
      supervm migrate --to rocksdb --api http://127.0.0.1:8645
    """
    from supervm.cli.errors import Misuse

    if api is not None:
        if data is not None:
            raise Misuse("--api: a running node has --data by its configuration")
        print_facts(trio.run(_migrate_at, api, name), as_json)
        return
    print_facts(trio.run(_migrate, node_options(data, file, settings), name), as_json)


async def _migrate_at(api: str, name: str) -> dict[str, Any]:
    """Have a running node move its store, and wait until it has. Raises Failure, `ClientError`."""
    from supervm.cli.errors import Failure
    from supervm.cli.node_option import connect

    with connect(api) as client, progress("moving", 0) as bar:
        client.post(f"/v1/migration/{name}")
        while True:
            await trio.sleep(LOOK_S)
            now = client.get("/v1/migration")
            if now["phase"] == "done":
                mend = "the node opens the new store at its next start; until then it writes both"
                return {"migrated": True, **now, "next": mend}
            if now["phase"] == "failed":
                raise Failure(f"{api}: {now['problem']}; the node goes on with its old store")
            bar.update(1)


async def _migrate(options: Any, name: str) -> dict[str, Any]:
    from supervm.chain.room import check_bulk
    from supervm.cli.errors import Misuse
    from supervm.cli.folders import (
        check_persistent,
        opened_folder,
        opened_ledger,
        opened_storage,
        planned_storage,
    )
    from supervm.contracts.roles import Role
    from supervm.storage.folder import switch_backend
    from supervm.storage.ledger import open_ledger
    from supervm.storage.migration import migrate as copy
    from supervm.storage.verify import verify_tree
    from supervm.telemetry.logs import LogConfig, open_logs

    async with opened_folder(options) as folder, opened_ledger(folder) as ledger:
        prepared, genesis = folder.prepared, folder.chain.genesis
        known = prepared.catalogue.named(Role.STORAGE)
        if name == prepared.storage:
            raise Misuse(f"the folder {folder.path} is of {name} already")
        if name not in known:
            raise Misuse(f"storage component {name!r} isn't installed; there are {', '.join(sorted(known))}")
        if obstacle := known[name].component.available():
            raise Misuse(f"storage component {name!r} can't be used here: {obstacle}")
        planned = planned_storage(prepared, genesis, name)
        # Its log is the old one's: nothing else writes here.
        with open_logs(LogConfig(level="warning")) as logs:
            async with opened_storage(prepared, planned, folder.path, logs) as (target, gas):
                check_persistent(target)
                wanted_bytes = (await folder.store.stats()).bytes
                check_bulk(await target.stats(), folder.options.room, wanted_bytes, "the copy")
                with progress("copying", 0) as bar:
                    moved = await copy(folder.store, target, lambda done, of: bar.update(1))
                state = gas.initial_state()
                async with open_ledger(target, genesis, state, gas.base_price(state)) as twin:
                    assert twin.tip == ledger.tip, "every row is equal"
                    with progress("hashing the state", 0):
                        entries = await verify_tree(twin)
                    tip = twin.tip
        await trio.to_thread.run_sync(switch_backend, folder.path, name)
        return {
            "migrated": True,
            "from": prepared.storage,
            "to": name,
            "height": str(tip.height),
            "state_root": f"0x{tip.state_root.hex()}",
            "state_entries": entries,
            "rows": moved.rows,
            "rows_found_copied": moved.found_copied,
            "old_store": str(folder.path / "storage" / prepared.storage),
        }
