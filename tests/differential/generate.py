"""Random blocks, good and bad, over a state that grows with them: by seed, without a clock or a signature."""

import random
from collections.abc import Iterator

import attrs

from supervm.execution import GAS_STATE_KEY, BlockInput
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy
from supervm.types.codec import U64_MAX, U128_MAX
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
    BALANCE,
    NATIVE_TOKEN,
    OBJECT,
    TOKEN,
    Account,
    Object,
    OwnerKind,
    Token,
    account_key,
    shared_owner,
    token_key,
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

CHAIN = b"c" * 32
FUNDS = 10**24
KEY_BYTES = {1: 32, 2: 33, 3: 65}
EPOCH, EXPIRED = 5, 4
PROFILES = ("calm", "busy", "hot", "chains", "objects", "tokens", "hostile")


@attrs.define
class World:
    """A state that blocks are made for, and what its maker remembers of it."""

    chance: random.Random
    gas: FlatPolicy
    state: dict[bytes, bytes]
    people: list[bytes]
    height: int = 0
    recent: list[Transaction] = attrs.Factory(list)

    def block(self) -> BlockInput:
        """The next block. Feed what comes of it to `follow`."""
        chance = self.chance
        profile = chance.choice(PROFILES)
        count = chance.choice((0, 1, 2, 5, 20, 20, 40, 80))
        maker = _Maker(self, profile)
        transactions = [maker.transaction() for _ in range(count)]
        if transactions and chance.random() < 0.3:
            transactions.insert(chance.randrange(len(transactions)), chance.choice(transactions))
        if self.recent and chance.random() < 0.3:
            transactions.append(chance.choice(self.recent))
        earlier = {each.digest for each in self.recent}
        return BlockInput(
            height=self.height + 1,
            epoch=EPOCH,
            timestamp_ms=1,
            chain_id=CHAIN,
            limits=LIMITS,
            transactions=tuple(transactions),
            executed=frozenset(each.digest for each in transactions if each.digest in earlier),
        )

    def follow(self, block: BlockInput, changes: dict[bytes, bytes | None]) -> None:
        """Take a block's changes into the state."""
        for key, value in changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        self.height = block.height
        self.recent = list(block.transactions[-4:])


LIMITS = Limits(object_bytes_max=600)


def world(seed: int) -> World:
    """Accounts rich, poor and empty, and a gas policy, by the seed."""
    chance = random.Random(seed)
    people = [chance.randbytes(32) for _ in range(chance.choice((2, 5, 12, 60)))]
    collector = chance.choice(("", "0x" + people[0].hex(), "0x" + chance.randbytes(32).hex()))
    gas = FlatPolicy(FlatConfig(price=chance.choice((0, 1, 10_000, 10_000, 10**9)), collector=collector))
    state = {GAS_STATE_KEY: gas.initial_state()}
    total = 0
    for person in people:
        funds = chance.choice((FUNDS,) * 8 + (10**6, 500, 0))
        total += funds
        account = Account(chance.choice((0, 0, 7)), 0, funds)
        if not account.is_empty:
            state[account_key(person)] = account.encode()
    state[token_key(NATIVE_TOKEN)] = Token(b"COIN", 6, chance.choice(people), False, total).encode()
    return World(chance, gas, state, people)


def blocks(seed: int, count: int) -> Iterator[tuple[World, BlockInput]]:
    """`count` blocks of one world; the caller lets the world follow each."""
    made = world(seed)
    for _ in range(count):
        yield made, made.block()


class _Maker:
    """Makes transactions that are mostly good, for the state as it stands and a little beyond."""

    def __init__(self, of: World, profile: str) -> None:
        self.world = of
        self.chance = of.chance
        self.profile = profile
        hot = max(2, len(of.people) // 10)
        self.senders = of.people[:hot] if profile == "hot" else of.people
        self.nonces: dict[bytes, int] = {}
        self.sponsor_nonces: dict[bytes, int] = {}
        self.objects = {key[1:]: Object.decode(v) for key, v in of.state.items() if key[:1] == OBJECT}
        self.tokens = [key[1:] for key in of.state if key[:1] == TOKEN]
        self.held = {(key[1:33], key[33:]) for key in of.state if key[:1] == BALANCE}
        self.before: bytes = of.people[0]

    def account(self, person: bytes) -> Account:
        data = self.world.state.get(ACCOUNT + person)
        return Account() if data is None else Account.decode(data)

    def transaction(self) -> Transaction:
        chance = self.chance
        sender = self.before if self.profile == "chains" else chance.choice(self.senders)
        inputs, operations, self.before = self.operations(sender)
        hostile = self.profile == "hostile" or chance.random() < 0.05
        payer = chance.choice(self.world.people) if chance.random() < 0.1 else sender
        nonce = self.nonces.setdefault(sender, self.account(sender).nonce)
        sponsor_nonce = 0
        if payer != sender:
            sponsor_nonce = self.sponsor_nonces.setdefault(payer, self.account(payer).sponsor_nonce)
        body = Body(
            chain_id=CHAIN,
            sender=sender,
            fee_payer=payer,
            sponsor_nonce=sponsor_nonce,
            nonce=nonce,
            expiry_epoch=chance.choice((0, 0, EPOCH, 9)),
            lane=chance.choice((Lane.AUTO, Lane.AUTO, Lane.FAST, Lane.ORDERED)),
            gas_limit=chance.choice((10**6, 10**6, 10**6, 40_000, 25_000)),
            max_price=chance.choice((10_000, 10_000, 10**6, 3)),
            tip_price=0,
            gas_token=NATIVE_TOKEN,
            max_fee=0,
            relays=chance.choice(((), (), (b"r" * 32,), (b"r" * 32, b"s" * 32))),
            inputs=inputs,
            payload_kind=1,
            payload=encode_operations(operations),
        )
        if hostile:
            body = self.spoiled(body)
        # What will be void uses no nonce.
        good = (nonce, CHAIN, 1, NATIVE_TOKEN)
        if (body.nonce, body.chain_id, body.payload_kind, body.gas_token) == good and not is_stale(body):
            self.nonces[sender] = nonce + 1
            if payer != sender:
                self.sponsor_nonces[payer] = sponsor_nonce + 1
        signers = 2 if payer != sender else 1
        made = encode_transaction(body.encode(), [self.authorization() for _ in range(signers)])
        return Transaction.decode(made, LIMITS)

    def authorization(self) -> Authorization:
        suite = self.chance.choice((1, 1, 2, 3))
        return Authorization(suite, self.chance.randbytes(KEY_BYTES[suite]), bytes(64))

    def spoiled(self, body: Body) -> Body:
        """One thing wrong, or at the edge."""
        chance = self.chance
        changes = chance.choice(
            (
                {"chain_id": b"d" * 32},
                {"nonce": body.nonce + chance.choice((1, 5))},
                {"nonce": max(0, body.nonce - 1)},
                {"nonce": U64_MAX},
                {"expiry_epoch": EXPIRED},
                {"lane": Lane.PRIVATE},
                {"payload_kind": 9, "payload": b"what?"},
                {"gas_token": b"g" * 32, "max_fee": 5},
                {"gas_limit": chance.choice((0, 1, 5_000, 20_000, U64_MAX))},
                {"gas_limit": U64_MAX, "max_price": U64_MAX},
                {"max_price": chance.choice((0, 1, U64_MAX))},
            )
        )
        return attrs.evolve(body, **changes)

    def amount(self) -> int:
        return self.chance.choice((0, 1, 7, 1_000, 10**6, FUNDS // 3, FUNDS, U128_MAX, U128_MAX // 2 + 1))

    def small(self) -> int:
        usual = self.chance.random() < 0.8
        return self.chance.choice((1, 5) if usual else (0, 1, 5, 10, 1_000, self.amount()))

    def data(self) -> bytes:
        return self.chance.randbytes(self.chance.choice((0, 1, 8, 8, 30, 200, 600)))

    def operations(self, sender: bytes) -> tuple[tuple[Input, ...], list[Operation], bytes]:
        """Inputs, operations, and somebody who gets something."""
        chance = self.chance
        to = chance.choice(self.world.people) if chance.random() < 0.9 else chance.randbytes(32)
        inputs: dict[bytes, Input] = {}
        made: list[Operation] = []
        for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
            roll = chance.random()
            if self.profile == "objects" and roll < 0.8:
                self.with_object(sender, to, inputs, made)
            elif self.profile == "tokens" and roll < 0.7:
                made.append(self.with_token(to))
            elif roll < 0.75:
                made.append(self.transfer(to))
            elif roll < 0.87:
                self.with_object(sender, to, inputs, made)
            else:
                made.append(self.with_token(to))
        declared = tuple(inputs[each] for each in sorted(inputs))
        return declared, made or [self.transfer(to)], to

    def transfer(self, to: bytes) -> Transfer:
        chance = self.chance
        token = chance.choice(self.tokens) if chance.random() < 0.2 else NATIVE_TOKEN
        people = [to, *(chance.choice(self.world.people) for _ in range(chance.choice((0, 0, 0, 1, 4))))]
        return Transfer(token, tuple(Output(each, self.small()) for each in people))

    def with_token(self, to: bytes) -> Operation:
        chance = self.chance
        token = chance.choice((*self.tokens, NATIVE_TOKEN)) if chance.random() < 0.95 else b"u" * 32
        match chance.randrange(5):
            case 0:
                return TokenCreate(b"GOLD"[: chance.choice((1, 4))], 6, self.amount(), chance.random() < 0.3)
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
        if chance.random() < 0.7:
            made.append(ObjectMutate(id_, self.data()))
        match inputs[id_].access if id_ in inputs else access:
            case Access.TRANSFER:
                made.append(ObjectTransfer(id_, to))
            case Access.SHARE:
                made.append(ObjectShare(id_))
            case Access.FREEZE:
                made.append(ObjectFreeze(id_))
            case Access.DELETE:
                made.append(ObjectDelete(id_))
        # Later transactions of the block mostly name it as it will be.
        if found is not None and found.owner_kind is OwnerKind.OWNED and chance.random() < 0.8:
            self.objects[id_] = after(found, inputs.get(id_), to)


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
