"""A stateful model of accounts, one token and objects, beside execution: they agree after every step."""

from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from supervm.execution import recorded_supply, supply
from supervm.types.operations import (
    Burn,
    Mint,
    ObjectCreate,
    ObjectDelete,
    ObjectFreeze,
    ObjectMutate,
    ObjectShare,
    ObjectTransfer,
    Operation,
    Output,
    Transfer,
)
from supervm.types.receipt import Receipt, Status
from supervm.types.state import NATIVE_TOKEN, Object, OwnerKind, object_id
from supervm.types.transaction import Access, Input

from .builders import (
    ALICE,
    BOB,
    CAROL,
    COLLECTOR,
    FUNDS,
    account,
    balance,
    found,
    run_one,
    state_of,
    token_record,
    transaction,
)

GOLD = b"g" * 32
PEOPLE = (ALICE, BOB, CAROL)
people = st.sampled_from(PEOPLE)
amounts = st.integers(0, 300)
short = st.binary(max_size=8)


@attrs.define
class Known:
    """What the model believes of an object."""

    version: int
    kind: OwnerKind
    owner: bytes
    data: bytes
    initial: int = 0


class Ledger(RuleBasedStateMachine):
    """Each rule foretells the outcome from the model, then executes one transaction and compares."""

    objects = Bundle("objects")

    def __init__(self) -> None:
        super().__init__()
        self.state = state_of(dict.fromkeys(PEOPLE, FUNDS), tokens={GOLD: {ALICE: 1_000, BOB: 500}})
        self.native = {**dict.fromkeys(PEOPLE, FUNDS), COLLECTOR: 0}
        self.gold = {ALICE: 1_000, BOB: 500, CAROL: 0}
        self.nonces = dict.fromkeys(PEOPLE, 0)
        self.known: dict[bytes, Known] = {}
        self.height = 0

    def send(self, sender: bytes, *operations: Operation, expect: str, **fields: Any) -> Receipt:
        """Execute one transaction with the next nonce; its code must be the one foretold."""
        self.height += 1
        one = transaction(*operations, sender=sender, nonce=self.nonces[sender], **fields)
        receipt = run_one(self.state, one, height=self.height)
        assert receipt.code == expect
        assert receipt.status is (Status.FAILED if expect else Status.COMMITTED)
        self.nonces[sender] += 1
        self.native[sender] -= receipt.fee
        self.native[COLLECTOR] += receipt.fee
        return receipt

    def use(self, sender: bytes, name: bytes, access: Access, operation: Operation) -> bool:
        """Send an operation on an object at its right version; whether it was done."""
        known = self.known[name]
        expect = self.refusal(sender, known, access)
        version = known.initial if known.kind is OwnerKind.SHARED else known.version
        self.send(sender, operation, expect=expect, inputs=[Input(name, version, access)])
        if known.kind is OwnerKind.OWNED and known.owner == sender:
            known.version += 1
        return not expect

    def refusal(self, sender: bytes, known: Known, access: Access) -> str:
        if known.kind is OwnerKind.IMMUTABLE:
            return "ImmutableObject"
        if known.kind is OwnerKind.SHARED:
            return "" if access is Access.WRITE else "NotOwned"
        return "" if known.owner == sender else "OwnershipMismatch"

    @rule(sender=people, to=people, amount=amounts)
    def pay(self, sender: bytes, to: bytes, amount: int) -> None:
        self.send(sender, Transfer(NATIVE_TOKEN, (Output(to, amount),)), expect="")
        self.native[sender] -= amount
        self.native[to] += amount

    @rule(sender=people, to=people, other=people, amount=amounts)
    def pay_gold(self, sender: bytes, to: bytes, other: bytes, amount: int) -> None:
        enough = 2 * amount <= self.gold[sender]
        operation = Transfer(GOLD, (Output(to, amount), Output(other, amount)))
        self.send(sender, operation, expect="" if enough else "InsufficientFunds")
        if enough:
            self.gold[sender] -= 2 * amount
            self.gold[to] += amount
            self.gold[other] += amount

    @rule(sender=people, to=people, amount=amounts)
    def mint(self, sender: bytes, to: bytes, amount: int) -> None:
        self.send(sender, Mint(GOLD, to, amount), expect="" if sender == ALICE else "NotMinter")
        if sender == ALICE:
            self.gold[to] += amount

    @rule(sender=people, amount=amounts)
    def burn(self, sender: bytes, amount: int) -> None:
        enough = amount <= self.gold[sender]
        self.send(sender, Burn(GOLD, amount), expect="" if enough else "InsufficientFunds")
        if enough:
            self.gold[sender] -= amount

    @rule(sender=people, to=people, amount=amounts)
    def pay_then_fail(self, sender: bytes, to: bytes, amount: int) -> None:
        self.send(
            sender, Transfer(NATIVE_TOKEN, (Output(to, amount),)), Burn(b"?" * 32, 0), expect="TokenUnknown"
        )

    @rule(sender=people, off=st.sampled_from((-1, 1, 64)))
    def use_another_nonce(self, sender: bytes, off: int) -> None:
        nonce = self.nonces[sender] + off
        if nonce < 0:
            return
        wrong = transaction(Transfer(NATIVE_TOKEN, (Output(BOB, 1),)), sender=sender, nonce=nonce)
        receipt = run_one(self.state, wrong)
        assert (receipt.status, receipt.fee) == (Status.VOID, 0)

    @rule(target=objects, sender=people, owner=people, kind=st.sampled_from(OwnerKind), data=short)
    def create(self, sender: bytes, owner: bytes, kind: OwnerKind, data: bytes) -> bytes:
        owner = owner if kind is OwnerKind.OWNED else bytes(32)
        receipt = self.send(sender, ObjectCreate(1, kind, owner, data), expect="")
        name = object_id(receipt.digest, 0)
        self.known[name] = Known(1, kind, owner, data, 1)
        return name

    @rule(sender=people, name=objects, data=short)
    def mutate(self, sender: bytes, name: bytes, data: bytes) -> None:
        if self.use(sender, name, Access.WRITE, ObjectMutate(name, data)):
            known = self.known[name]
            known.data = data
            known.version += known.kind is OwnerKind.SHARED

    @rule(sender=people, name=objects, to=people)
    def give(self, sender: bytes, name: bytes, to: bytes) -> None:
        if self.use(sender, name, Access.TRANSFER, ObjectTransfer(name, to)):
            self.known[name].owner = to

    @rule(sender=people, name=objects)
    def share(self, sender: bytes, name: bytes) -> None:
        if self.use(sender, name, Access.SHARE, ObjectShare(name)):
            known = self.known[name]
            known.kind, known.initial = OwnerKind.SHARED, known.version

    @rule(sender=people, name=objects)
    def freeze(self, sender: bytes, name: bytes) -> None:
        if self.use(sender, name, Access.FREEZE, ObjectFreeze(name)):
            self.known[name].kind = OwnerKind.IMMUTABLE

    @rule(target=objects, sender=people, name=consumes(objects))
    def delete(self, sender: bytes, name: bytes) -> Any:
        if not self.use(sender, name, Access.DELETE, ObjectDelete(name)):
            return name
        gone = self.known.pop(name)
        inputs = [Input(name, gone.version, Access.WRITE)]
        self.send(sender, ObjectMutate(name, b"back"), expect="ObjectDeleted", inputs=inputs)
        assert found(self.state, name) == Object(gone.version, OwnerKind.OWNED, sender, 1, True, b"")
        return multiple()

    @rule(sender=people, name=objects, off=st.sampled_from((-1, 1, 7)))
    def declare_another_version(self, sender: bytes, name: bytes, off: int) -> None:
        known = self.known[name]
        current = known.initial if known.kind is OwnerKind.SHARED else known.version
        inputs = [Input(name, current + off, Access.READ)]
        self.send(sender, ObjectMutate(name, b"late"), expect="VersionMismatch", inputs=inputs)

    @invariant()
    def balances_and_nonces_agree(self) -> None:
        assert {each: balance(self.state, each) for each in self.native} == self.native
        assert {each: balance(self.state, each, GOLD) for each in PEOPLE} == self.gold
        assert {each: account(self.state, each).nonce for each in PEOPLE} == self.nonces

    @invariant()
    def objects_agree(self) -> None:
        for name, known in self.known.items():
            one = found(self.state, name)
            assert (one.version, one.owner_kind, one.data) == (known.version, known.kind, known.data)
            if known.kind is OwnerKind.OWNED:
                assert one.owner == known.owner
            if known.kind is OwnerKind.SHARED:
                assert one.initial_version == known.initial

    @invariant()
    def supplies_are_the_sums_of_balances(self) -> None:
        assert supply(self.state) == recorded_supply(self.state)
        assert token_record(self.state, GOLD).supply == sum(self.gold.values())


Ledger.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestLedger = Ledger.TestCase
