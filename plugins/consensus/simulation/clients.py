"""Clients: transfers and objects of a few users, some of whom sign twice. They insist until it is final."""

from collections.abc import Container

import attrs

from supervm.crypto.keys import KeyPair
from supervm.plugins.consensus.simulation.plan import USERS, Ask
from supervm.types import digests
from supervm.types.address import Suite
from supervm.types.digests import digest
from supervm.types.operations import (
    ObjectCreate,
    ObjectMutate,
    Operation,
    Output,
    Transfer,
    encode_operations,
)
from supervm.types.state import NATIVE_TOKEN, OwnerKind
from supervm.types.transaction import Access, Body, Input, Lane, Transaction, build

PRICE = 10_000
FUNDS = 10**15
HOT = b"\x07" * 32


def key(number: int) -> KeyPair:
    return KeyPair(Suite.ED25519, number.to_bytes(32, "big"))


@attrs.define
class _User:
    key: KeyPair
    nonce: int = 0
    object_id: bytes = b""
    made_by: bytes = b""
    version: int = 0
    changed_by: bytes = b""
    stuck: bool = False


class Clients:
    """All users. `honest`: what must become final; of what was signed twice at most one may.

    `doubtful`: what can't all be paid for; it is sent again and again, too.
    """

    def __init__(self, chain_id: bytes, probes: int) -> None:
        self._chain_id = chain_id
        self._users = [_User(key(1 + each)) for each in range(USERS + probes)]
        self.honest: list[Transaction] = []
        self.doubtful: list[Transaction] = []

    @property
    def addresses(self) -> list[bytes]:
        return [each.key.address for each in self._users]

    def ask(self, number: int, ask: Ask, final: Container[bytes]) -> list[Transaction]:
        """What a user signs, one transaction for each validator it is sent to. `final` are those that are."""
        user = self._users[number]
        if user.stuck:
            return []
        match ask:
            case Ask.TRANSFER:
                return self._keep(user, self._transfer(1_000))
            case Ask.TWICE:
                user.stuck = True
                first = self._sign(user, user.nonce, self._transfer(1))
                second = self._sign(user, user.nonce, self._transfer(2))
                return [first, second, self._sign(user, user.nonce + 1, self._transfer(3))]
            case Ask.OBJECT | Ask.OBJECT_TWICE:
                return self._object(user, ask, final)
            case Ask.OVERSPEND:
                return self._overspend(user, self._users[(number + 1) % USERS])

    def probe(self, number: int) -> Transaction:
        """A transfer of a user who does nothing else."""
        return self._keep(self._users[USERS + number], self._transfer(1))[0]

    def _overspend(self, user: _User, friend: _User) -> list[Transaction]:
        """Two users spend the same funds twice each, the second of them what the first one paid."""
        if friend.stuck:
            return self._keep(user, self._transfer(1_000))
        user.stuck = friend.stuck = True
        part = FUNDS * 9 // 10
        signed = [
            self._sign(user, user.nonce, self._transfer(part, friend.key.address)),
            self._sign(user, user.nonce + 1, self._transfer(part)),
            self._sign(friend, friend.nonce, self._transfer(2 * part)),
            self._sign(friend, friend.nonce + 1, self._transfer(part)),
        ]
        self.doubtful += signed
        return signed

    def _object(self, user: _User, ask: Ask, final: Container[bytes]) -> list[Transaction]:
        if not user.object_id:
            made = self._keep(user, (ObjectCreate(1, OwnerKind.OWNED, user.key.address, b"made"),))
            user.object_id = digest(digests.OBJECT, made[0].digest, (0).to_bytes(4, "little"))
            user.made_by, user.version = made[0].digest, 1
            return made
        if (user.changed_by or user.made_by) not in final:
            return self._keep(user, self._transfer(5))
        inputs = (Input(user.object_id, user.version, Access.WRITE),)
        change = (ObjectMutate(user.object_id, b"changed"),)
        if ask is Ask.OBJECT_TWICE:
            user.stuck = True
            # Ordered, it leaves the version as it is for whoever looks before its block.
            first = self._sign(user, user.nonce, change, inputs, Lane.ORDERED)
            return [first, self._sign(user, user.nonce + 1, change, inputs)]
        changed = self._keep(user, change, inputs)
        user.version += 1
        user.changed_by = changed[0].digest
        return changed

    def _keep(
        self, user: _User, operations: tuple[Operation, ...], inputs: tuple[Input, ...] = ()
    ) -> list[Transaction]:
        signed = self._sign(user, user.nonce, operations, inputs)
        user.nonce += 1
        self.honest.append(signed)
        return [signed]

    @staticmethod
    def _transfer(amount: int, to: bytes = HOT) -> tuple[Operation, ...]:
        return (Transfer(NATIVE_TOKEN, (Output(to, amount),)),)

    def _sign(
        self,
        user: _User,
        nonce: int,
        operations: tuple[Operation, ...],
        inputs: tuple[Input, ...] = (),
        lane: Lane = Lane.AUTO,
    ) -> Transaction:
        body = Body(
            chain_id=self._chain_id,
            sender=user.key.address,
            nonce=nonce,
            lane=lane,
            gas_limit=200_000,
            max_price=PRICE,
            max_fee=0,
            inputs=inputs,
            payload=encode_operations(operations),
        )
        return build(body, [user.key])
