"""Random blocks, good and bad, over a state that grows with them: by seed, without a clock or a signature."""

import random
from collections.abc import Mapping, Sequence

import attrs

from supervm.execution import GAS_STATE_KEY, BlockInput
from supervm.plugins.gas.flat import FlatConfig, FlatPolicy
from supervm.types.address import Suite, address_of, node_id_of
from supervm.types.codec import U64_MAX, U128_MAX
from supervm.types.limits import Limits
from supervm.types.state import (
    NATIVE_TOKEN,
    Account,
    Object,
    OwnerKind,
    Token,
    account_key,
    object_key,
    shared_owner,
    token_key,
)
from supervm.types.transaction import Transaction
from supervm.types.validators import NOBODY, Validator, ValidatorSet
from tests.differential.making import CHAIN, EPOCH, FUNDS, Maker
from tests.differential.profiles import CROWDED, ORDINARY, Profile
from tests.differential.staking import Stakers

ORDINARY_LIMITS = Limits(object_bytes_max=600)
NARROW_LIMITS = Limits(
    inputs_max=3, outputs_max=4, payload_bytes_max=500, transaction_bytes_max=900, object_bytes_max=64
)
# A body longer than what digests are made over in one piece.
WIDE_LIMITS = Limits(
    object_bytes_max=290_000, payload_bytes_max=300_000, transaction_bytes_max=400_000, block_bytes_max=10**9
)
CROWD = 640


@attrs.define
class World:
    """A state that blocks are made for, and what its maker remembers of it."""

    chance: random.Random
    gas: FlatPolicy
    limits: Limits
    profiles: tuple[Profile, ...]
    state: dict[bytes, bytes]
    people: list[bytes]
    height: int = 0
    recent: list[Transaction] = attrs.Factory(list)
    epoch: int = EPOCH
    granted: ValidatorSet = NOBODY
    stakers: Stakers | None = None
    epochs: int = 0
    """How far the epoch goes on after a block."""

    def block(self) -> BlockInput:
        """The next block. Feed what comes of it to `follow`."""
        chance = self.chance
        profile = chance.choice(self.profiles)
        maker = Maker(chance, self.state, self.people, self.limits, profile)
        transactions = maker.transactions(chance.choice(profile.counts))
        if transactions and chance.random() < 0.3:
            transactions.insert(chance.randrange(len(transactions)), chance.choice(transactions))
        if transactions and chance.random() < 0.2:
            # The same body with other signatures is the same transaction. Keys of suite 1 are the shortest.
            transactions.append(maker.signed(chance.choice(transactions).body, suite=1))
        if self.recent and chance.random() < 0.3:
            transactions.append(chance.choice(self.recent))
        if self.stakers is not None:
            for each in self.stakers.transactions(maker, self.epoch):
                transactions.insert(self.stakers.chance.randint(0, len(transactions)), each)
        return self.block_of(transactions)

    def block_of(self, transactions: Sequence[Transaction]) -> BlockInput:
        """These transactions as the next block."""
        earlier = {each.digest for each in self.recent}
        return BlockInput(
            height=self.height + 1,
            epoch=self.epoch,
            timestamp_ms=1,
            chain_id=CHAIN,
            limits=self.limits,
            transactions=tuple(transactions),
            executed=frozenset(each.digest for each in transactions if each.digest in earlier),
            granted=self.granted,
        )

    def follow(self, block: BlockInput, changes: Mapping[bytes, bytes | None]) -> None:
        """Take a block's changes into the state."""
        for key, value in changes.items():
            if value is None:
                self.state.pop(key, None)
            else:
                self.state[key] = value
        self.height = block.height
        self.epoch += self.epochs
        self.recent = list(block.transactions[-4:])


def world(seed: int, crowded: bool | None = None) -> World:
    """Accounts rich, poor and empty, objects, and a gas policy, by the seed.

    `crowded`: many accounts and large blocks; unless said, of every twelfth seed.
    """
    chance = random.Random(seed)
    crowded = seed % 12 == 11 if crowded is None else crowded
    people = [chance.randbytes(32) for _ in range(CROWD if crowded else chance.choice((2, 5, 12, 60)))]
    collector = chance.choice(("", "0x" + people[0].hex(), "0x" + chance.randbytes(32).hex()))
    price = chance.choice((0, 1, 10_000, 10_000, 10_000, 10**9, U64_MAX))
    gas = FlatPolicy(FlatConfig(price=price, collector=collector))
    limits = chance.choice((ORDINARY_LIMITS,) * 5 + (NARROW_LIMITS, WIDE_LIMITS))
    state = {GAS_STATE_KEY: gas.initial_state()}
    _add_accounts(chance, state, people)
    for _ in range(chance.choice((0, 0, 10, 270))):
        _add_object(chance, state, people, limits)
    made = World(chance, gas, limits, CROWDED if crowded else ORDINARY, state, people)
    if seed % 2:
        add_stakers(made, random.Random(f"stakes {seed}"))
        made.epochs = 5 if seed % 8 == 7 else 0
    return made


def add_stakers(of: World, chance: random.Random) -> None:
    """Keys that stake, leave and withdraw, some of them named by genesis."""
    of.stakers = made = Stakers(chance)
    named = chance.sample(made.keys, chance.choice((0, 1, 2, 5)))
    members = [Validator(node_id_of(Suite.ED25519, key), key, chance.choice((1, 3, 2**62))) for key in named]
    of.granted = ValidatorSet(tuple(sorted(members[:3], key=lambda each: each.node_id)))
    record = Token.decode(of.state[token_key(NATIVE_TOKEN)])
    if record.supply + len(made.keys) * FUNDS <= U128_MAX:
        supply = record.supply + len(made.keys) * FUNDS
        of.state[token_key(NATIVE_TOKEN)] = attrs.evolve(record, supply=supply).encode()
        for key in made.keys:
            of.state[account_key(address_of(Suite.ED25519, key))] = Account(balance=FUNDS).encode()


def _add_accounts(chance: random.Random, state: dict[bytes, bytes], people: list[bytes]) -> None:
    """The native token's supply is what they have; at times all that 128 bits can say."""
    total = 0
    funds_of_all = (FUNDS,) * 8 + (10**6, 500, 0)
    for person in people:
        funds = chance.choice(funds_of_all)
        total += funds
        account = Account(chance.choice((0, 0, 7)), chance.choice((0, 0, 3)), funds)
        if not account.is_empty:
            state[account_key(person)] = account.encode()
    if chance.random() < 0.2:
        first = (
            Account.decode(state[account_key(people[0])]) if account_key(people[0]) in state else Account()
        )
        state[account_key(people[0])] = attrs.evolve(first, balance=first.balance + U128_MAX - total).encode()
        total = U128_MAX
    state[token_key(NATIVE_TOKEN)] = Token(b"COIN", 6, chance.choice(people), False, total).encode()


def _add_object(
    chance: random.Random, state: dict[bytes, bytes], people: list[bytes], limits: Limits
) -> None:
    """An object that was there before the first block; most belong to the first of the people."""
    kind = chance.choice((OwnerKind.OWNED,) * 6 + (OwnerKind.SHARED, OwnerKind.IMMUTABLE))
    version = chance.choice((1, 1, 4))
    owner = bytes(32)
    if kind is OwnerKind.OWNED:
        owner = people[0] if chance.random() < 0.8 else chance.choice(people)
    elif kind is OwnerKind.SHARED:
        owner = shared_owner(chance.randrange(1, version + 1))
    deleted = kind is OwnerKind.OWNED and chance.random() < 0.05
    data = b"" if deleted else chance.randbytes(chance.choice((0, 5, 40)))
    made = Object(version, kind, owner, 7, deleted, data)
    state[object_key(chance.randbytes(32))] = made.encode()
