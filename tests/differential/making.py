"""Makes transactions that are mostly good, for a state as it stands and a little beyond."""

import random
from collections.abc import Callable, Sequence

import attrs

from supervm.types.codec import U64_MAX, U128_MAX
from supervm.types.errors import DecodeError
from supervm.types.limits import Limits
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
    TokenCreate,
    Transfer,
    encode_operations,
)
from supervm.types.state import (
    ACCOUNT,
    NATIVE_TOKEN,
    OBJECT,
    TOKEN,
    Account,
    Object,
    OwnerKind,
    object_id,
    shared_owner,
    token_id,
)
from supervm.types.transaction import (
    Access,
    Authorization,
    Body,
    Input,
    Lane,
    Transaction,
    encode_transaction,
)
from tests.differential.profiles import Profile

CHAIN = b"c" * 32
FUNDS = 10**24
KEY_BYTES = {1: 32, 2: 33, 3: 65}
EPOCH, EXPIRED = 5, 4
TRIES = 4


class Maker:
    """Remembers what the block so far will have done, if all goes well."""

    def __init__(
        self,
        chance: random.Random,
        state: dict[bytes, bytes],
        people: Sequence[bytes],
        limits: Limits,
        profile: Profile,
    ) -> None:
        self.chance = chance
        self.state = state
        self.people = people
        self.limits = limits
        self.profile = profile
        self.senders = people[: max(2, len(people) // 10)] if profile.hot else people
        self.nonces: dict[bytes, int] = {}
        self.sponsor_nonces: dict[bytes, int] = {}
        self.objects = {key[1:]: Object.decode(v) for key, v in state.items() if key[:1] == OBJECT}
        self.tokens = [key[1:] for key in state if key[:1] == TOKEN]
        self.before: bytes = people[0]

    def transactions(self, count: int) -> list[Transaction]:
        """`count` of them, as the profile says."""
        share = self.profile.pays_one
        if share is None:
            return [self.transaction() for _ in range(count)]
        made = []
        hot = self.chance.choice(self.people)
        outputs = self.chance.choice((1, 3))
        senders = self.chance.sample(self.people, min(count, len(self.people)))
        for at, sender in enumerate(senders):
            # Those that pay nobody in common pay accounts of their own.
            to = [hot] if self.chance.random() < share else []
            to += [at.to_bytes(31, "big") + bytes((i,)) for i in range(outputs - len(to))]
            paid = Transfer(NATIVE_TOKEN, tuple(Output(each, 5) for each in to))
            made.append(self.signed(self.body(sender, (), [paid])))
        return made

    def account(self, person: bytes) -> Account:
        data = self.state.get(ACCOUNT + person)
        return Account() if data is None else Account.decode(data)

    def transaction(self) -> Transaction:
        """One that decodes; a plain transfer where the limits refuse what was thought of."""
        for _ in range(TRIES):
            sender = self.before if self.profile.chained else self.chance.choice(self.senders)
            inputs, operations, to = self.operations(sender)
            try:
                return self.made(sender, inputs, operations, to)
            except DecodeError:
                continue
        return self.made(
            self.people[0], (), [Transfer(NATIVE_TOKEN, (Output(self.people[0], 1),))], self.before
        )

    def made(
        self, sender: bytes, inputs: Sequence[Input], operations: Sequence[Operation], to: bytes
    ) -> Transaction:
        chance = self.chance
        hostile = chance.random() < self.profile.hostile
        payer = chance.choice(self.people) if chance.random() < self.profile.sponsored else sender
        body = self.body(sender, inputs, operations, payer)
        if hostile:
            body = self.spoiled(body)
        made = self.signed(body)
        self.before = to
        # What will be void uses no nonce.
        expected = (self.nonce(sender), CHAIN, 1, NATIVE_TOKEN)
        if (body.nonce, body.chain_id, body.payload_kind, body.gas_token) == expected and not is_stale(body):
            self.nonces[sender] = body.nonce + 1
            if body.is_sponsored:
                self.sponsor_nonces[payer] = body.sponsor_nonce + 1
            self.remember(made)
        return made

    def nonce(self, sender: bytes) -> int:
        return self.nonces.setdefault(sender, self.account(sender).nonce)

    def body(
        self,
        sender: bytes,
        inputs: Sequence[Input],
        operations: Sequence[Operation],
        payer: bytes | None = None,
    ) -> Body:
        chance = self.chance
        payer = sender if payer is None else payer
        sponsor_nonce = 0
        if payer != sender:
            sponsor_nonce = self.sponsor_nonces.setdefault(payer, self.account(payer).sponsor_nonce)
        gas = chance.choice((40_000, 25_000)) if chance.random() < 0.2 else 10**6
        gas += 3_000 * sum(len(each.outputs) for each in operations if isinstance(each, Transfer))
        return Body(
            chain_id=CHAIN,
            sender=sender,
            fee_payer=payer,
            sponsor_nonce=sponsor_nonce,
            nonce=self.nonce(sender),
            expiry_epoch=chance.choice((0, 0, EPOCH, 9)),
            lane=chance.choice(self.profile.lanes),
            gas_limit=chance.randrange(12_000, 36_000) if self.profile.short else gas,
            max_price=chance.choice((10_000, 10_000, 10**6, 3)),
            tip_price=0,
            gas_token=NATIVE_TOKEN,
            max_fee=0,
            relays=chance.choice(((), (), (b"r" * 32,), (b"r" * 32, b"s" * 32))),
            inputs=tuple(sorted(inputs, key=lambda each: each.id)),
            payload_kind=1,
            payload=encode_operations(operations),
        )

    def signed(self, body: Body, suite: int | None = None) -> Transaction:
        """With authorizations that look right, by `suite` or any. Raises `DecodeError` beyond the limits."""
        signers = 0 if not any(body.sender) else 2 if body.is_sponsored else 1
        made = encode_transaction(body.encode(), [self.authorization(suite) for _ in range(signers)])
        return Transaction.decode(made, self.limits)

    def authorization(self, suite: int | None) -> Authorization:
        suite = suite or self.chance.choice((1, 1, 2, 3))
        return Authorization(suite, self.chance.randbytes(KEY_BYTES[suite]), bytes(64))

    def spoiled(self, body: Body) -> Body:
        """One thing wrong, or at the edge."""
        chance = self.chance
        nobody = {
            "sender": bytes(32), "fee_payer": bytes(32), "sponsor_nonce": 0, "nonce": 0, "inputs": (),
            "lane": Lane.PRIVATE, "payload_kind": chance.choice((7, body.payload_kind)),
        }  # fmt: skip
        changes = chance.choice(
            (
                {"chain_id": b"d" * 32},
                {"nonce": body.nonce + chance.choice((1, 5))},
                {"nonce": max(0, body.nonce - 1)},
                {"nonce": U64_MAX},
                {"sponsor_nonce": body.sponsor_nonce + 1 if body.is_sponsored else 0},
                {"sponsor_nonce": max(0, body.sponsor_nonce - 1)},
                {"expiry_epoch": EXPIRED},
                {"lane": Lane.PRIVATE},
                nobody,
                {"payload_kind": 9, "payload": b"what?"},
                {"payload_kind": 9, "payload": b""},
                {"gas_token": b"g" * 32, "max_fee": 5},
                {"gas_limit": chance.choice((0, 1, 5_000, 20_000, U64_MAX))},
                {"gas_limit": chance.randrange(10_000, 60_000)},
                {"gas_limit": U64_MAX, "max_price": U64_MAX},
                {"gas_limit": 10**7, "max_price": U64_MAX},
                {"max_price": chance.choice((0, 1, U64_MAX))},
            )
        )
        return attrs.evolve(body, **changes)

    def remember(self, made: Transaction) -> None:
        """What it creates may be used by those after it."""
        objects = 0
        for index, operation in enumerate(made.operations):
            match operation:
                case TokenCreate():
                    if self.chance.random() < self.profile.fresh:
                        self.tokens.append(token_id(made.digest, index))
                case ObjectCreate(type=kind, owner_kind=owner_kind, owner=owner, data=data):
                    if self.chance.random() < self.profile.fresh:
                        owner = shared_owner(1) if owner_kind is OwnerKind.SHARED else owner
                        created = Object(1, owner_kind, owner, kind, False, data)
                        self.objects[object_id(made.digest, objects)] = created
                    objects += 1

    def amount(self) -> int:
        return self.chance.choice((0, 1, 7, 1_000, 10**6, FUNDS // 3, FUNDS, U128_MAX, U128_MAX // 2 + 1))

    def small(self) -> int:
        usual = self.chance.random() < 0.8
        return self.chance.choice((1, 5) if usual else (0, 1, 5, 10, 1_000, self.amount()))

    def data(self) -> bytes:
        most = self.limits.object_bytes_max
        usual = self.chance.choice((0, 1, 8, 8, 30, 200, 600))
        size = most if self.chance.random() < 0.02 else min(most, usual)
        return self.chance.randbytes(size)

    def operations(self, sender: bytes) -> tuple[Sequence[Input], list[Operation], bytes]:
        """Inputs, operations, and somebody who gets something."""
        chance, profile = self.chance, self.profile
        to = chance.choice(self.people) if chance.random() < 0.9 else chance.randbytes(32)
        inputs: dict[bytes, Input] = {}
        made: list[Operation] = []
        count = chance.choice(profile.operations)
        if profile.inputs:
            self.declare_many(sender, to, inputs, made, chance.choice(profile.inputs), count)
        while len(made) < count:
            roll = chance.random()
            if roll < profile.objects:
                self.with_object(sender, to, inputs, made)
            elif roll < profile.objects + profile.tokens:
                made.append(self.with_token(to))
            else:
                made.append(self.transfer(to))
        return tuple(inputs.values()), made[:64], to

    def declare_many(
        self,
        sender: bytes,
        to: bytes,
        inputs: dict[bytes, Input],
        made: list[Operation],
        count: int,
        used: int,
    ) -> None:
        """As many of the sender's objects as there are, up to `count`, and some of them used."""
        mine = [each for each, o in self.objects.items() if o.owner == sender and not o.deleted]
        for id_ in self.chance.sample(mine, min(len(mine), count)):
            access = self.chance.choice(tuple(Access))
            inputs[id_] = Input(id_, self.objects[id_].version, access)
            if len(made) < used:
                made.extend(self.uses(id_, access, to))
            self.objects[id_] = after(self.objects[id_], inputs[id_], to)

    def transfer(self, to: bytes) -> Transfer:
        chance = self.chance
        token = chance.choice(self.tokens) if chance.random() < 0.2 else NATIVE_TOKEN
        people = [to, *(chance.choice(self.people) for _ in range(chance.choice(self.profile.others)))]
        return Transfer(token, tuple(Output(each, self.small()) for each in people))

    def with_token(self, to: bytes) -> Operation:
        chance = self.chance
        token = chance.choice((*self.tokens, NATIVE_TOKEN)) if chance.random() < 0.95 else b"u" * 32
        match chance.randrange(5):
            case 0:
                return TokenCreate(
                    b"GOLD9ABCDEFGHIJK"[: chance.choice((1, 4, 16))],
                    chance.choice((0, 6, 18)),
                    self.amount(),
                    chance.random() < 0.3,
                )
            case 1:
                return Mint(token, to, self.small())
            case 2:
                return Mint(token, to, U128_MAX)
            case 3:
                return Burn(token, self.small())
        return Transfer(token, (Output(to, self.small()),))

    def with_object(
        self, sender: bytes, to: bytes, inputs: dict[bytes, Input], made: list[Operation]
    ) -> None:
        """An object of the sender's, usually, declared rightly, usually, and used."""
        chance = self.chance
        if not self.objects or chance.random() < 0.3:
            kind = chance.choice((OwnerKind.OWNED, OwnerKind.OWNED, OwnerKind.SHARED, OwnerKind.IMMUTABLE))
            owner = (sender if chance.random() < 0.8 else to) if kind is OwnerKind.OWNED else bytes(32)
            made.append(ObjectCreate(chance.randrange(4), kind, owner, self.data()))
            return
        mine = [each for each, o in self.objects.items() if o.owner == sender and not o.deleted]
        id_ = chance.choice(mine) if mine and chance.random() < 0.85 else chance.choice(list(self.objects))
        if chance.random() < 0.02:
            id_ = b"8" * 32
        found = self.objects.get(id_)
        access = chance.choice((Access.WRITE, Access.WRITE, Access.READ, *Access))
        version = 1
        if found is not None:
            version = found.initial_version if found.owner_kind is OwnerKind.SHARED else found.version
        if chance.random() < 0.05:
            version += 1
        if id_ not in inputs and chance.random() < 0.97:
            inputs[id_] = Input(id_, version, access)
        made.extend(self.uses(id_, inputs[id_].access if id_ in inputs else access, to))
        # Later transactions of the block mostly name it as it will be.
        if found is not None and found.owner_kind is OwnerKind.OWNED and chance.random() < 0.8:
            self.objects[id_] = after(found, inputs.get(id_), to)

    def uses(self, id_: bytes, access: Access, to: bytes) -> list[Operation]:
        """What an access lets do, mostly; at times more than that, or twice."""
        chance = self.chance
        made: list[Operation] = []
        if chance.random() < (0.7 if access is not Access.READ else 0.2):
            made.append(ObjectMutate(id_, self.data()))
        ends: dict[Access, Callable[[], Operation]] = {
            Access.TRANSFER: lambda: ObjectTransfer(id_, to),
            Access.SHARE: lambda: ObjectShare(id_),
            Access.FREEZE: lambda: ObjectFreeze(id_),
            Access.DELETE: lambda: ObjectDelete(id_),
        }
        if chance.random() < 0.03:
            access = chance.choice(tuple(ends))
        if access in ends:
            made.append(ends[access]())
            if chance.random() < 0.05:
                made.append(chance.choice((ends[access], lambda: ObjectMutate(id_, b"late")))())
        return made


def is_stale(body: Body) -> bool:
    """Whether its lane or its expiry make it void."""
    return body.lane is Lane.PRIVATE or body.expiry_epoch == EXPIRED


def after(found: Object, declared: Input | None, to: bytes) -> Object:
    """How an owned object will stand if all goes well."""
    version = found.version + 1
    match declared.access if declared is not None else None:
        case Access.TRANSFER:
            return attrs.evolve(found, version=version, owner=to)
        case Access.SHARE:
            owner = shared_owner(version)
            return attrs.evolve(found, version=version, owner_kind=OwnerKind.SHARED, owner=owner)
        case Access.FREEZE:
            return attrs.evolve(found, version=version, owner_kind=OwnerKind.IMMUTABLE, owner=bytes(32))
        case Access.DELETE:
            return attrs.evolve(found, version=version, deleted=True, data=b"")
    return attrs.evolve(found, version=version)
