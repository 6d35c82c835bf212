"""Whether the transactions of a packed batch are signed by those they name, without decoding them.

For whole blocks: their bytes go to the C driver as they are, and no Python object is made for one. The same
is said of decoded transactions, in words, by `supervm.crypto.transactions`. Where there is no C library, or
a suite is not for it, the answers are made here, from the same scan of the bytes.
"""

from array import array
from collections.abc import Iterable, Sequence
from enum import IntEnum

import attrs

from supervm.crypto.batch import chosen, verify_many
from supervm.crypto.remembered import RememberedSignatures
from supervm.crypto.suites import SignatureItem
from supervm.hardware.fastpath import NATIVE, Scan, ScanError, ScanLimits, ScanRecord, scan_transactions
from supervm.types.address import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, address_of
from supervm.types.digests import DIGEST_BYTES, ZERO, plain_digest
from supervm.types.limits import DEFAULT_LIMITS, RELAYS_MAX, Limits
from supervm.types.transaction import signing_digest

U64 = "Q"
_SENDER = 33
"""Where a body names its sender, after the format and the chain id; the fee payer follows."""


class Verdict(IntEnum):
    """What is said of a transaction, as in `svm_verify.h`. Of several, the first of 6, 3, 4, 5, 0, 2."""

    SENDER_SIGNATURE = 0
    """The sender's signature is wrong."""
    SIGNED = 1
    """By all whom it names; also one that names no account (a PRIVATE one)."""
    PAYER_SIGNATURE = 2
    """The fee payer's signature is wrong."""
    SENDER_KEY = 3
    """The first key isn't the sender's."""
    PAYER_KEY = 4
    """The second key isn't the fee payer's."""
    OTHER_SUITE = 5
    """Not for the C driver. Never in an answer."""
    NOT_CANONICAL = 6
    """The scan refuses the bytes (EXEC-6)."""


@attrs.frozen
class Verified:
    """`verdicts`: a byte for each transaction, a `Verdict`. `digests`: of the bodies, 32 bytes each.

    The digest of bytes that are not canonical is zero.
    """

    verdicts: bytes
    digests: bytes = attrs.field(repr=False)

    @property
    def all_signed(self) -> bool:
        return self.verdicts.count(Verdict.SIGNED) == len(self.verdicts)


def verify_packed(
    data: bytes,
    offsets: Sequence[int],
    *,
    limits: Limits = DEFAULT_LIMITS,
    digests: bytes | None = None,
    threads: int = 1,
    remembered: RememberedSignatures | None = None,
) -> Verified:
    """Verify the transactions data[offsets[i]:offsets[i + 1]].

    `digests`: those of the bodies, where somebody has made them. What is `remembered` isn't verified again,
    and what is found right is remembered. Blocks, without the interpreter's lock; `threads` share the work.
    """
    bounds = offsets if isinstance(offsets, array) and offsets.typecode == U64 else array(U64, offsets)
    return _verify(data, bounds[:-1], bounds[1:], limits, digests, threads, remembered)


def verify_scanned(
    packed: bytes,
    scan: Scan,
    *,
    limits: Limits = DEFAULT_LIMITS,
    digests: bytes | None = None,
    threads: int = 1,
    remembered: RememberedSignatures | None = None,
) -> Verified:
    """Verify the transactions that `fastpath.scan_transactions` found in these bytes, as `verify_packed`."""
    columns = memoryview(scan.table).cast("I")
    starts = array(U64, columns[1::8])
    ends = array(U64, (start + size for start, size in zip(starts, columns[2::8], strict=True)))
    return _verify(packed, starts, ends, limits, digests, threads, remembered)


def _verify(
    data: bytes,
    starts: "array[int]",
    ends: "array[int]",
    limits: Limits,
    digests: bytes | None,
    threads: int,
    remembered: RememberedSignatures | None,
) -> Verified:
    count = len(starts)
    fingerprints: list[bytes] = []
    known = bytes(count)
    if remembered is not None:
        fingerprints = _fingerprints(data, starts, ends, threads)
        known = bytes(map(remembered.__contains__, fingerprints))
    bounds = _scan_limits(limits)
    driver = chosen().driver
    if driver is None:
        asked = _Asked(data, starts, ends, bounds, digests)
        verdicts, made = asked.verdicts(range(count), known, threads), asked.digests()
    else:
        found, made = driver.transactions(data, starts, ends, bounds, digests, known, threads)
        verdicts = bytearray(found)
        others = [at for at in range(count) if found[at] == Verdict.OTHER_SUITE] if 5 in found else []
        if others:
            again = _Asked(data, starts, ends, bounds, made).verdicts(others, known, threads)
            for at in others:
                verdicts[at] = again[at]
    if remembered is not None:
        remembered.update(
            [
                each
                for each, verdict, old in zip(fingerprints, verdicts, known, strict=True)
                if verdict == Verdict.SIGNED and not old
            ]
        )
    return Verified(bytes(verdicts), made)


def _fingerprints(data: bytes, starts: "array[int]", ends: "array[int]", threads: int) -> list[bytes]:
    if not NATIVE:
        return [plain_digest(data[start:end]) for start, end in zip(starts, ends, strict=True)]
    from supervm.hardware.fastpath.verifying import fingerprints

    found = fingerprints(data, starts, ends, threads)
    return [found[at : at + DIGEST_BYTES] for at in range(0, len(found), DIGEST_BYTES)]


def _scan_limits(limits: Limits) -> ScanLimits:
    return ScanLimits(
        transactions_max=1,
        transaction_bytes_max=limits.transaction_bytes_max,
        payload_bytes_max=limits.payload_bytes_max,
        inputs_max=limits.inputs_max,
        relays_max=RELAYS_MAX,
    )


@attrs.define
class _Asked:
    """The same work in Python: the driver's twin."""

    data: bytes
    starts: Sequence[int]
    ends: Sequence[int]
    limits: ScanLimits
    given: bytes | None

    def verdicts(self, places: Iterable[int], known: bytes, threads: int) -> bytearray:
        """Verdicts of the transactions at these places; those elsewhere don't count."""
        found = bytearray(len(known))
        items: list[SignatureItem] = []
        owners: list[tuple[int, int]] = []
        for at in places:
            record = self._scan(at)
            found[at] = Verdict.SIGNED if known[at] else self._first_verdict(at, record)
            if found[at] == Verdict.SIGNED and not known[at]:
                mine = self._items(at, record)
                items += mine
                owners += [(at, index) for index in range(len(mine))]
        for (at, index), right in zip(owners, verify_many(items, threads=threads), strict=True):
            if not right and found[at] == Verdict.SIGNED:
                found[at] = (Verdict.SENDER_SIGNATURE, Verdict.PAYER_SIGNATURE)[index]
        return found

    def digests(self) -> bytes:
        return b"".join(self._digest(at, self._scan(at)) for at in range(len(self.starts)))

    def _scan(self, at: int) -> ScanRecord:
        """The record of one; offsets are from its first byte."""
        one = self.data[self.starts[at] : self.ends[at]]
        head = b"\1\0" + len(one).to_bytes(4, "little")
        (record,) = scan_transactions(head + one, self.limits).records()
        shift = len(head) if record.error is ScanError.OK else 0
        return attrs.evolve(
            record,
            start=0,
            body_end=record.body_end - shift,
            payload=record.payload - shift,
            authorization=record.authorization - shift,
        )

    def _first_verdict(self, at: int, record: ScanRecord) -> Verdict:
        if record.error is not ScanError.OK:
            return Verdict.NOT_CANONICAL
        start = self.starts[at] + _SENDER
        for index, (suite, key, _) in enumerate(self._authorizations(at, record)):
            if address_of(suite, key) != self.data[start + 32 * index : start + 32 * index + 32]:
                return (Verdict.SENDER_KEY, Verdict.PAYER_KEY)[index]
        return Verdict.SIGNED

    def _items(self, at: int, record: ScanRecord) -> list[SignatureItem]:
        digest = self._digest(at, record)
        return [(suite, key, digest, signature) for suite, key, signature in self._authorizations(at, record)]

    def _authorizations(self, at: int, record: ScanRecord) -> list[tuple[int, bytes, bytes]]:
        found = []
        cursor = self.starts[at] + record.authorization
        for _ in range(record.authorization_count):
            suite = self.data[cursor]
            key = cursor + 1 + 4
            signature = key + PUBLIC_KEY_BYTES[suite] + 4
            cursor = signature + SIGNATURE_BYTES
            found.append((suite, self.data[key : signature - 4], self.data[signature:cursor]))
        return found

    def _digest(self, at: int, record: ScanRecord) -> bytes:
        if self.given is not None:
            return self.given[DIGEST_BYTES * at : DIGEST_BYTES * (at + 1)]
        if record.error is not ScanError.OK:
            return ZERO
        return signing_digest(self.data[self.starts[at] : self.starts[at] + record.body_end])
