"""The work of `fast-4`: each account has an object of its own, and mutates it again and again (FAST)."""

from collections.abc import Callable, Sequence

from supervm.bench.net_work import FUNDS
from supervm.bench.workload import PRICE
from supervm.client.build import body_of
from supervm.crypto.keys import KeyPair
from supervm.types.operations import ObjectCreate, ObjectMutate
from supervm.types.state import OwnerKind, object_id
from supervm.types.transaction import Access, Input, Lane, Transaction, build

OBJECT_TYPE = 1
DATA_BYTES = 32


def sign_creations(keys: Sequence[KeyPair], chain_id: bytes) -> list[Transaction]:
    """The first transaction of each account makes its object."""
    return [
        build(
            body_of(
                [ObjectCreate(OBJECT_TYPE, OwnerKind.OWNED, key.address, bytes(DATA_BYTES))],
                chain_id=chain_id,
                sender=key.address,
                suite=key.suite,
                nonce=0,
                base_price=PRICE,
            ),
            [key],
        )
        for key in keys
    ]


def sign_mutations(
    keys: Sequence[KeyPair],
    objects: Sequence[bytes],
    count: int,
    chain_id: bytes,
    progress: Callable[[int], object] = lambda _: None,
) -> list[bytes]:
    """`count` mutations, by each account in its turn. `progress` is told of each one done."""
    signed = []
    for at in range(count):
        turn, number = divmod(at, len(keys))
        key = keys[number]
        body = body_of(
            [ObjectMutate(objects[number], at.to_bytes(DATA_BYTES, "little"))],
            chain_id=chain_id,
            sender=key.address,
            suite=key.suite,
            nonce=turn + 1,
            base_price=PRICE,
            inputs=(Input(objects[number], turn + 1, Access.WRITE),),
            lane=Lane.FAST,
            input_bytes=DATA_BYTES,
        )
        signed.append(build(body, [key]).data)
        progress(1)
    return signed


def objects_of(creations: Sequence[Transaction]) -> list[bytes]:
    return [object_id(each.digest, 0) for each in creations]


def mutations_due(accounts: int, count: int) -> list[int]:
    """How often each account mutates."""
    return [count // accounts + (number < count % accounts) for number in range(accounts)]


def expected_owners(accounts: int, count: int, create_fee: int, mutate_fee: int) -> list[tuple[int, int]]:
    """(nonce, balance) of each account at the end."""
    return [(1 + each, FUNDS - create_fee - each * mutate_fee) for each in mutations_due(accounts, count)]
