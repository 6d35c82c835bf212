"""Messages of any shape, rightly signed: what only a hostile validator of the set can send."""

import random
from collections.abc import Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Any

import attrs

from supervm.crypto.keys import KeyPair
from supervm.crypto.votes import sign_batch
from supervm.plugins.consensus.bft import messages
from supervm.plugins.consensus.bft.fetching import (
    Absent,
    Get,
    Got,
    OldestHeld,
    Want,
    WantBlocks,
    WantDigest,
    WantHandovers,
    WantPart,
    WantRow,
    WantSnapshot,
    WantViews,
    What,
)
from supervm.plugins.consensus.bft.messages import Message
from supervm.plugins.consensus.bft.votes import (
    Accept,
    AskEpoch,
    EndEpoch,
    EpochDone,
    Refusal,
    Refuse,
    TellEpoch,
    ViewVote,
)
from supervm.types.batch import Batch
from supervm.types.certificate import VoteKind, bitmap_of
from supervm.types.errors import InvalidInput

NUMBERS = (0, 1, 2, 3, 7, 255, 4_095, 65_535, 2**20, 2**32 - 1, 2**40, 2**63, 2**64 - 1)


@attrs.define
class Wild:
    """Makes messages from those that were `heard`, and of kinds that weren't. `number`: who signs them."""

    chain_id: bytes
    key: KeyPair
    number: int
    count: int
    heard: Sequence[Message]
    random: random.Random
    digests: list[bytes] = attrs.Factory(list)

    def message(self) -> Message:
        """One that can be sent: its bytes are the encoding of it."""
        while True:
            made = self._changed(self._one())
            with suppress(InvalidInput, AssertionError, KeyError):
                made = self._signed(made)
                messages.decode(messages.encode(made))
                return made

    def _one(self) -> Any:
        chance = self.random
        if self.heard and chance.random() < 0.7:
            return chance.choice(self.heard)
        digest, number, signature = self._digest(), self._number(), bytes(64)
        return chance.choice(
            (
                ViewVote(VoteKind.NOTARIZE, 1, number, digest, self.number, signature),
                ViewVote(VoteKind.NULLIFY, 1, number, bytes(32), self.number, signature),
                ViewVote(VoteKind.FINALIZE, 1, number, digest, self.number, signature),
                Accept(1, digest, self.number, signature),
                Refuse(1, digest, self.number, "", (), (Refusal(number % 4_096, "X", digest),)),
                Refuse(1, digest, self.number, "PastMissing", (digest,), ()),
                EpochDone(1, self.number, signature),
                EndEpoch(1, bitmap_of([self.number], self.count), (signature,)),
                AskEpoch(digest),
                TellEpoch(digest, 1, self.number, signature),
                Get(tuple(self._want() for _ in range(chance.randrange(1, 5)))),
                Got((Absent(self._want()), OldestHeld(number))),
            )
        )

    def _want(self) -> Want:
        chance, digest, number = self.random, self._digest(), self._number()
        last = min(number + chance.randrange(256), 2**64 - 1)
        return chance.choice(
            (
                WantDigest(chance.choice(list(What)), digest),
                WantViews(chance.choice((0, 1, 2)), number, last),
                WantBlocks(number, chance.randrange(1, 257)),
                WantRow(chance.randbytes(chance.randrange(9, 64)), number),
                WantHandovers(number, chance.randrange(1, 65)),
                WantSnapshot(number),
                WantPart(digest, number % 2**32),
            )
        )

    def _number(self) -> int:
        return self.random.choice((*NUMBERS, self.random.randrange(40)))

    def _digest(self) -> bytes:
        if self.digests and self.random.random() < 0.6:
            return self.random.choice(self.digests)
        return self.random.randbytes(32)

    def _changed(self, value: Any) -> Any:
        """The same kind of thing with some of its parts others."""
        changes = {
            field.alias: self._other(getattr(value, field.name))
            for field in attrs.fields(type(value))
            if field.init and self.random.random() < 0.25
        }
        return attrs.evolve(value, **changes)

    def _other(self, part: Any) -> Any:
        chance = self.random
        if isinstance(part, IntEnum):
            return chance.choice(list(type(part)))
        if isinstance(part, bool) or part is None:
            return part
        if isinstance(part, int):
            return chance.choice((part + 1, max(part - 1, 0), self._number()))
        if isinstance(part, bytes):
            return self._digest() if len(part) == 32 else chance.randbytes(chance.choice((0, 1, len(part))))
        if isinstance(part, tuple):
            changed = tuple(self._other(each) if chance.random() < 0.5 else each for each in part)
            return chance.choice((changed, changed[1:], part + part))
        return self._changed(part) if attrs.has(type(part)) else part

    def _signed(self, message: Any) -> Any:
        """In its own name, wherever one signature is all that a message has."""
        if isinstance(message, Batch):
            header = attrs.evolve(message.header, builder=self.key.node_id)
            return attrs.evolve(message, header=header, signature=sign_batch(self.key, header))
        if hasattr(message, "validator") and hasattr(message, "signature"):
            message = attrs.evolve(message, validator=self.number)
            return attrs.evolve(message, signature=self.key.sign(message.message(self.chain_id)))
        return message
