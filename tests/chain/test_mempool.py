"""The mempool's promises, one by one and under random use."""

from collections.abc import Mapping
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from supervm.chain.mempool import Entry, Mempool, MempoolBounds
from supervm.contracts.application import Refused

NATIVE = bytes(32)


def account(number: int) -> bytes:
    return number.to_bytes(32, "big")


def entry(
    sender: int,
    nonce: int,
    *,
    price: int = 10,
    size: int = 200,
    gas: int = 15_100,
    salt: int = 0,
    spend: int = 1,
    expiry: int = 0,
    owned: tuple[bytes, ...] = (),
) -> Entry:
    name = account(sender)
    lock = b"\x01" + name + nonce.to_bytes(8, "little")
    spends: Mapping[tuple[bytes, bytes], int] = {(name, NATIVE): spend} if spend else {}
    return Entry(
        digest=bytes([sender, salt]) + nonce.to_bytes(30, "big"),
        sender=name,
        nonce=nonce,
        price=price,
        size_bytes=size,
        gas=gas,
        locks=(lock, *owned),
        spends=spends,
        expiry_epoch=expiry,
        transaction=None,
    )


def take(pool: Mempool, count: int = 100, **bounds: Any) -> list[tuple[int, int]]:
    given: dict[str, Any] = {"bytes_seal": 2**18, "bytes_max": 2**20, "gas_max": 10**9, "now_s": 0.0}
    taken = pool.take(count_max=count, **(given | bounds))
    return [(int.from_bytes(each.sender, "big"), each.nonce) for each in taken]


def test_a_senders_transactions_leave_in_nonce_order_whatever_the_order_they_came_in() -> None:
    pool = Mempool()
    for nonce in (2, 0, 1):
        assert pool.add(entry(1, nonce), 0, 0.0) == ()
    assert take(pool) == [(1, 0), (1, 1), (1, 2)]


def test_a_transaction_behind_a_gap_waits_until_the_gap_is_filled() -> None:
    pool = Mempool()
    pool.add(entry(1, 1), 0, 0.0)
    assert take(pool) == []
    assert pool.figures().ready == 0
    pool.add(entry(1, 0), 0, 0.0)
    assert take(pool) == [(1, 0), (1, 1)]


def test_at_most_64_nonces_ahead_of_the_account_are_held() -> None:
    pool = Mempool()
    assert pool.add(entry(1, 63), 0, 0.0) == ()
    refused = pool.add(entry(1, 64), 0, 0.0)
    assert isinstance(refused, Refused)
    assert refused.code == "NonceGap"


def test_a_used_nonce_is_refused_and_the_next_one_is_named() -> None:
    refused = Mempool().add(entry(1, 4), 5, 0.0)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.value) == ("NonceUsed", "4")
    assert "5" in refused.mend


def test_a_second_transaction_for_a_nonce_is_refused_and_names_the_first_even_when_a_builder_has_it() -> None:
    pool = Mempool()
    first = entry(1, 0)
    pool.add(first, 0, 0.0)
    for _ in range(2):
        refused = pool.add(entry(1, 0, price=1_000_000, salt=9), 0, 0.0)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.conflict) == ("Equivocated", first.digest)
        assert first.digest.hex() in refused.mend
        take(pool)
    assert pool.get(first.digest) is first


def test_a_second_transaction_for_an_owned_version_is_refused_under_another_nonce_too() -> None:
    pool = Mempool()
    first = entry(1, 0, owned=(b"object@1",))
    pool.add(first, 0, 0.0)
    refused = pool.add(entry(1, 1, owned=(b"object@1",)), 0, 0.0)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.field, refused.conflict) == ("Equivocated", "inputs", first.digest)


def test_senders_take_turns_so_that_one_with_many_transactions_delays_nobody() -> None:
    pool = Mempool()
    for nonce in range(5):
        pool.add(entry(1, nonce, price=50), 0, 0.0)
    assert take(pool, 3) == [(1, 0), (1, 1), (1, 2)]
    pool.add(entry(2, 0, price=1), 0, 0.0)
    pool.add(entry(3, 0, price=20), 0, 0.0)
    # Senders 2 and 3 come in the round that sender 1 has finished; inside it the higher price leads.
    assert take(pool) == [(3, 0), (2, 0), (1, 3), (1, 4)]


def test_equal_prices_leave_in_order_of_arrival() -> None:
    pool = Mempool()
    for sender in (7, 3, 9, 1):
        pool.add(entry(sender, 0), 0, 0.0)
    assert take(pool) == [(7, 0), (3, 0), (9, 0), (1, 0)]


def test_a_batch_ends_at_its_bounds() -> None:
    pool = Mempool()
    for sender in range(10):
        pool.add(entry(sender, 0, size=100, gas=1_000), 0, 0.0)
    assert len(take(pool, bytes_seal=250)) == 3
    assert len(take(pool, bytes_max=250)) == 2
    assert len(take(pool, gas_max=1_999)) == 1
    assert len(take(pool, 1)) == 1


def test_at_the_bound_the_cheapest_tail_leaves_for_a_better_price_the_newest_first() -> None:
    pool = Mempool(MempoolBounds(transactions_max=4))
    pool.add(entry(1, 0, price=9), 0, 0.0)
    pool.add(entry(1, 1, price=9), 0, 0.0)
    pool.add(entry(2, 0, price=5), 0, 0.0)
    pool.add(entry(3, 0, price=5), 0, 0.0)
    dropped = pool.add(entry(4, 0, price=7), 0, 0.0)
    assert not isinstance(dropped, Refused)
    assert [(each.entry.sender, each.reason) for each in dropped] == [(account(3), "evicted")]
    assert len(pool) == 4


def test_a_transaction_is_worth_no_more_than_the_cheapest_that_must_run_before_it() -> None:
    pool = Mempool(MempoolBounds(transactions_max=3))
    pool.add(entry(1, 0, price=2), 0, 0.0)
    pool.add(entry(1, 1, price=100), 0, 0.0)
    pool.add(entry(2, 0, price=5), 0, 0.0)
    dropped = pool.add(entry(3, 0, price=3), 0, 0.0)
    assert not isinstance(dropped, Refused)
    assert [each.entry.nonce for each in dropped] == [1]


def test_what_waits_behind_a_gap_leaves_before_anything_that_can_run() -> None:
    pool = Mempool(MempoolBounds(transactions_max=2))
    pool.add(entry(1, 5, price=1_000), 0, 0.0)
    pool.add(entry(2, 0, price=1), 0, 0.0)
    dropped = pool.add(entry(3, 0, price=1), 0, 0.0)
    assert not isinstance(dropped, Refused)
    assert [each.entry.sender for each in dropped] == [account(1)]
    refused = pool.add(entry(4, 3, price=1_000), 0, 0.0)
    assert isinstance(refused, Refused)
    assert refused.code == "MempoolFull"


def test_full_of_its_equals_it_refuses_and_says_when_to_come_back() -> None:
    pool = Mempool(MempoolBounds(transactions_max=1))
    pool.add(entry(1, 0), 0, 0.0)
    refused = pool.add(entry(2, 0), 0, 0.0)
    assert isinstance(refused, Refused)
    assert (refused.code, refused.retry_after_s) == ("MempoolFull", 1.0)


def test_what_a_builder_may_have_is_never_evicted() -> None:
    pool = Mempool(MempoolBounds(transactions_max=2))
    pool.add(entry(1, 0, price=1), 0, 0.0)
    pool.add(entry(2, 0, price=1), 0, 0.0)
    take(pool)
    refused = pool.add(entry(3, 0, price=10**9), 0, 0.0)
    assert isinstance(refused, Refused)
    assert len(pool) == 2


def test_a_refused_newcomer_evicts_nobody() -> None:
    pool = Mempool(MempoolBounds(bytes_max=2**18))
    pool.add(entry(1, 0, price=1, size=2**17), 0, 0.0)
    pool.add(entry(2, 0, price=9, size=2**17), 0, 0.0)
    refused = pool.add(entry(3, 0, price=5, size=2**18), 0, 0.0)
    assert isinstance(refused, Refused)
    assert len(pool) == 2


def test_one_given_back_waits_for_the_next_block_and_is_dropped_after_enough_tries() -> None:
    pool = Mempool(MempoolBounds(deferrals_max=2))
    one = entry(1, 0)
    pool.add(one, 0, 0.0)
    take(pool)
    assert pool.give_back(one.digest, 0.0) is None
    assert take(pool) == []
    pool.settle([], {}, 0.0)
    assert take(pool) == [(1, 0)]
    dropped = pool.give_back(one.digest, 0.0)
    assert dropped is not None
    assert dropped.reason == "deferred"
    assert len(pool) == 0


def test_a_block_takes_its_transactions_out_and_frees_their_locks_and_spends() -> None:
    pool = Mempool()
    one, two = entry(1, 0, spend=30), entry(1, 1, spend=12)
    pool.add(one, 0, 0.0)
    pool.add(two, 0, 0.0)
    assert pool.spending(account(1), NATIVE) == 42
    take(pool)
    assert pool.settle([one.digest], {account(1): 1}, 0.0) == ()
    assert pool.spending(account(1), NATIVE) == 12
    assert pool.holder(one.locks[0]) is None
    assert pool.holder(two.locks[0]) == two.digest


def test_a_nonce_used_by_another_transaction_drops_the_one_here() -> None:
    pool = Mempool()
    pool.add(entry(1, 0), 0, 0.0)
    dropped = pool.settle([b"\xff" * 32], {account(1): 1}, 0.0)
    assert [each.reason for each in dropped] == ["nonce_used"]


def test_the_sweep_drops_the_expired_and_those_that_stayed_too_long() -> None:
    pool = Mempool(MempoolBounds(stay_s_max=60))
    pool.add(entry(1, 0, expiry=3), 0, 0.0)
    pool.add(entry(2, 0), 0, 0.0)
    pool.add(entry(3, 0), 0, 30.0)
    assert [each.reason for each in pool.expire(3, 0.0)] == []
    assert [each.reason for each in pool.expire(4, 0.0)] == ["expired"]
    assert [each.entry.sender for each in pool.expire(4, 61.0)] == [account(2)]


def test_it_knows_since_when_there_has_been_work() -> None:
    pool = Mempool()
    assert pool.ready_since_s is None
    pool.add(entry(1, 1), 0, 1.0)
    assert pool.ready_since_s is None
    pool.add(entry(1, 0), 0, 2.0)
    pool.add(entry(2, 0), 0, 3.0)
    assert pool.ready_since_s == 2.0
    take(pool)
    assert pool.ready_since_s is None


class RandomUse(RuleBasedStateMachine):
    """Senders, builders, blocks and sweeps in any order; the invariants hold after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Mempool(MempoolBounds(transactions_max=8, bytes_max=2**18, ahead_max=6, deferrals_max=3))
        self.nonces = dict.fromkeys(range(4), 0)
        self.handed: dict[bytes, Entry] = {}
        self.now_s = 0.0

    @rule(
        sender=st.integers(0, 3),
        ahead=st.integers(-1, 7),
        price=st.integers(0, 5),
        size=st.sampled_from([200, 60_000, 200_000]),
        salt=st.integers(0, 1),
    )
    def add(self, sender: int, ahead: int, price: int, size: int, salt: int) -> None:
        nonce = self.nonces[sender] + ahead
        if nonce < 0:
            return
        one = entry(sender, nonce, price=price, size=size, salt=salt)
        before = {digest: self.pool.get(digest) for digest in list(self.pool._by_digest)}
        outcome = self.pool.add(one, self.nonces[sender], self.now_s)
        if isinstance(outcome, Refused):
            assert {digest: self.pool.get(digest) for digest in before} == before
            assert len(self.pool) == len(before)
        else:
            assert one.digest in self.pool
            assert not any(each.entry.digest in self.handed for each in outcome)

    @rule(count=st.integers(1, 6))
    def build(self, count: int) -> None:
        expected = dict(self.nonces)
        for one in self.handed.values():
            sender = int.from_bytes(one.sender, "big")
            expected[sender] = max(expected[sender], one.nonce + 1)
        for one in self.pool.take(
            count_max=count, bytes_seal=2**18, bytes_max=2**20, gas_max=10**9, now_s=self.now_s
        ):
            sender = int.from_bytes(one.sender, "big")
            assert one.digest not in self.handed
            assert one.nonce == expected[sender], "only the next nonce may leave"
            expected[sender] += 1
            self.handed[one.digest] = one

    @precondition(lambda self: self.handed)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.handed.values(), key=lambda each: each.digest)))
        # An engine that can't place one can't place those that depend on it.
        dependents = [
            each for each in self.handed.values() if each.sender == one.sender and each.nonce >= one.nonce
        ]
        for each in sorted(dependents, key=lambda each: -each.nonce):
            del self.handed[each.digest]
            self.pool.give_back(each.digest, self.now_s)

    @rule(count=st.integers(0, 6))
    def commit(self, count: int) -> None:
        done: list[Entry] = []
        for one in sorted(self.handed.values(), key=lambda each: (each.nonce, each.digest))[:count]:
            sender = int.from_bytes(one.sender, "big")
            if one.nonce == self.nonces[sender]:
                self.nonces[sender] += 1
                done.append(one)
        for one in done:
            del self.handed[one.digest]
        nonces = {account(sender): nonce for sender, nonce in self.nonces.items()}
        assert self.pool.settle([one.digest for one in done], nonces, self.now_s) == ()

    @rule(seconds=st.sampled_from([1.0, 4_000.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for each in self.pool.expire(1, self.now_s):
            assert each.entry.digest not in self.handed

    @invariant()
    def counts_are_those_of_the_entries(self) -> None:
        held = list(self.pool._by_digest.values())
        figures = self.pool.figures()
        assert figures.transactions == len(held) <= 8
        assert figures.size_bytes == sum(each.entry.size_bytes for each in held) <= 2**18
        assert figures.handed == sum(each.handed for each in held) == len(self.handed)
        locks = [lock for each in held for lock in each.entry.locks]
        assert len(set(locks)) == len(locks) == len(self.pool._locks)
        for sender in range(4):
            mine = [each.entry for each in held if each.entry.sender == account(sender)]
            assert self.pool.spending(account(sender), NATIVE) == len(mine)
            assert len({each.nonce for each in mine}) == len(mine)

    @invariant()
    def what_is_ready_is_what_could_be_taken(self) -> None:
        ready = 0
        for queue in self.pool._queues.values():
            assert queue.held, "an empty queue is forgotten"
            run = [each for each in queue.run() if not each.handed]
            ready += 0 if queue.deferred else len(run)
        assert self.pool.figures().ready == ready
        assert (self.pool.ready_since_s is None) == (ready == 0)


TestRandomUse = RandomUse.TestCase
TestRandomUse.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
