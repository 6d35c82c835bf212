"""The same node after a restart; the same state on every backend; events across a reconnect."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from supervm.types.operations import Burn, Mint, ObjectCreate, ObjectMutate, TokenCreate
from supervm.types.state import OwnerKind, object_id, token_id
from supervm.types.transaction import Access, Input, Transaction
from tests.e2e.harness import DEADLINE_S, Chain, Node, Wallet, dev_key, new_chain, running, verb

SOMEBODY = b"\x21" * 32


def test_a_restarted_node_is_the_same_node_on_the_same_chain(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running(data) as node:
        wallet = Wallet.at(node, dev_key(data))
        paid = wallet.pay((SOMEBODY, 77))
        node.commit(paid)
        before = node.client.status()
        found = node.client.transaction(f"0x{paid.digest.hex()}")
        block = node.client.block(int(found["height"]))
    with running(data) as node:
        after = node.client.status()
        for name in ("chain_id", "node_id", "tier"):
            assert after[name] == before[name], name
        assert int(after["height"]) >= int(before["height"])
        assert node.client.transaction(f"0x{paid.digest.hex()}") == found
        assert node.client.block(block["digest"]) == block
        assert node.client.block(int(before["height"]))["digest"] == before["block_digest"]
        assert node.balance(SOMEBODY) == 77
        again = node.post(paid.data)
        assert (again.status_code, again.json()["status"]) == (202, "committed")
        # And it goes on where it was.
        node.commit(wallet.pay((SOMEBODY, 1)))
        assert node.balance(SOMEBODY) == 78


Happened = list[tuple[str, str, Any]]


def read_events(node: Node, last_id: str, enough: Callable[[Happened], bool]) -> Happened:
    """(id, kind, facts) of the events after `last_id`, until there are enough or the stream ends."""
    found: Happened = []
    headers = {"last-event-id": last_id} if last_id else {}
    address = f"{node.url}/v1/events"
    with httpx.stream("GET", address, headers=headers, timeout=DEADLINE_S, trust_env=False) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, text = line.partition(": ")
                fields[name] = text
                continue
            if "data" in fields:
                found.append((fields["id"], fields["event"], json.loads(fields["data"])))
                if enough(found):
                    break
            fields = {}
    return found


def told_of(transaction: Transaction) -> Callable[[Happened], bool]:
    """Whether the last event is of the receipts of a block with this transaction."""
    digest = f"0x{transaction.digest.hex()}"

    def enough(found: Happened) -> bool:
        _, kind, facts = found[-1]
        return kind == "receipts" and digest in json.dumps(facts)

    return enough


def test_events_resume_after_a_reconnect_and_a_restart_is_told(tmp_path: Path) -> None:
    flags = ("--set", "consensus.solo.idle_blocks=false")
    with running(tmp_path / "data", *flags) as node:
        wallet = Wallet.at(node, dev_key(node.data))
        first, second, third = (wallet.pay((SOMEBODY, 1)) for _ in range(3))
        node.commit(first)
        seen = read_events(node, "0", told_of(first))
        last = seen[-1][0]
        # Nobody listens while this happens.
        node.commit(second)
        missed = read_events(node, last, told_of(second))
        assert [kind for _, kind, _ in missed] == ["block", "receipts"]
        assert not {each for each, _, _ in missed} & {each for each, _, _ in seen}
        # And a reader that waits is told as it happens.
        live: Happened = []
        reader = threading.Thread(
            target=lambda: live.extend(read_events(node, missed[-1][0], told_of(third)))
        )
        reader.start()
        node.commit(third)
        reader.join(DEADLINE_S)
        assert [kind for _, kind, _ in live] == ["block", "receipts"]
        heights = [int(facts["height"]) for _, kind, facts in (*seen, *missed, *live) if kind == "block"]
        assert heights == sorted(set(heights))
    with running(tmp_path / "data", *flags) as node:
        ((gap_id, kind, _),) = read_events(node, live[-1][0], lambda found: False)
        assert kind == "gap"
        fourth = wallet.pay((SOMEBODY, 1))
        node.commit(fourth)
        assert read_events(node, gap_id, told_of(fourth))


def everything(chain: Chain) -> list[list[Transaction]]:
    """Transactions of each kind, in steps that need the one before: the same bytes for every backend."""
    one, two = chain.wallet(0), chain.wallet(1)
    token = one.sign(one.body(TokenCreate(b"TKN", 6, 10**12, fixed=False)))
    token_key = token_id(token.digest, 0)
    made = one.sign(
        one.body(
            ObjectCreate(1, OwnerKind.OWNED, one.address, b"mine"),
            ObjectCreate(2, OwnerKind.SHARED, bytes(32), b"ours"),
        )
    )
    owned, shared = (object_id(made.digest, index) for index in range(2))
    changed = one.sign(
        one.body(ObjectMutate(owned, b"changed" * 40), inputs=(Input(owned, 1, Access.WRITE),))
    )
    both = two.sign(two.body(ObjectMutate(shared, b"by two"), inputs=(Input(shared, 1, Access.WRITE),)))
    many = [one.pay((bytes([index]) * 32, 1_000 + index), (SOMEBODY, 1)) for index in range(1, 40)]
    # Fails in its block, and pays for it.
    failing = one.sign(one.body(Burn(token_key, 1), Mint(token_key, SOMEBODY, 2**128 - 1)))
    mixed = [
        one.sign(one.body(Mint(token_key, two.address, 5), Burn(token_key, 3))),
        failing,
        *(two.pay((one.address, 10)) for _ in range(20)),
    ]
    return [[token, made], [changed, both, *many], mixed]


def state_after(chain: Chain, data: Path, steps: list[list[Transaction]], *flags: str, **environ: str) -> str:
    """The state root once all the transactions of each step have an outcome."""
    flags = ("--genesis", str(chain.genesis), "--set", "consensus.solo.idle_blocks=false", *flags)
    with running(chain.folder(data), *flags, **environ) as node:
        for step in steps:
            node.send(*step)
            outcomes = [node.outcome(each)["status"] for each in step]
            assert set(outcomes) <= {"committed", "failed"}, outcomes
        root: str = node.client.status()["state_root"]
    return root


def test_the_same_transactions_give_the_same_root_on_every_backend_and_on_the_twins(tmp_path: Path) -> None:
    chain = new_chain(tmp_path, accounts=2)
    steps = everything(chain)
    roots = {
        backend: state_after(chain, tmp_path / backend, steps, "--set", f"storage.use={backend}")
        for backend in ("memory", "sqlite", "rocksdb", "lmdb")
    }
    roots["twins"] = state_after(chain, tmp_path / "twins", steps, SUPERVM_NATIVE="off")
    assert len(set(roots.values())) == 1, roots
    for backend in ("sqlite", "rocksdb", "lmdb"):
        assert verb("verify", "--data", tmp_path / backend).code == 0
    assert verb("verify", "--data", tmp_path / "rocksdb", SUPERVM_NATIVE="off").code == 0


def test_a_node_in_memory_begins_anew(tmp_path: Path) -> None:
    flags = ("--set", "storage.use=memory")
    with running(tmp_path / "data", *flags) as node:
        node.commit(Wallet.at(node, dev_key(node.data)).pay((SOMEBODY, 5)))
        chain_id = node.client.status()["chain_id"]
    with running(tmp_path / "data", *flags) as node:
        assert node.client.status()["chain_id"] == chain_id
        assert node.balance(SOMEBODY) == 0
