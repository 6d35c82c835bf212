"""What proves a block final: its own finalisation, or the headers up to a block that has one (CONS-72)."""

import attrs

from supervm.types.block import HEADER_BYTES, BlockHeader
from supervm.types.certificate import Certificate, VoteKind
from supervm.types.codec import Reader, Writer
from supervm.types.digests import Digest
from supervm.types.errors import ProofInvalid

CHAIN_FORMAT = 0x80
"""Above every kind of certificate: a proof with headers begins with it."""

HEADERS_MAX = 4_096
CERTIFICATE_BYTES_MAX = 1024 * 1024


@attrs.frozen
class FinalityProof:
    """`headers`: those above the block, each the child of the one before, the last of them finalised.

    Without headers its encoding is the finalisation's own.
    """

    finalisation: Certificate
    headers: tuple[BlockHeader, ...] = ()

    def encode(self) -> bytes:
        """The finalisation; with headers `u8 0x80 || list of headers || byte string finalisation`."""
        if not self.headers:
            return self.finalisation.encode()
        writer = Writer().u8(CHAIN_FORMAT).count(len(self.headers), "headers")
        for header in self.headers:
            writer.byte_string(header.encode(), "header")
        return writer.byte_string(self.finalisation.encode(), "finalisation").done()

    @classmethod
    def decode(cls, data: bytes) -> "FinalityProof":
        """Raises `DecodeError`."""
        if data[:1] != bytes((CHAIN_FORMAT,)):
            return cls(Certificate.decode(data))
        reader = Reader(data)
        reader.u8("finality.format")
        count = reader.count("finality.headers", HEADERS_MAX, item_bytes_min=4 + HEADER_BYTES)
        headers = tuple(
            BlockHeader.decode(reader.byte_string("finality.header", HEADER_BYTES)) for _ in range(count)
        )
        finalisation = Certificate.decode(reader.byte_string("finality.finalisation", CERTIFICATE_BYTES_MAX))
        reader.finish("finality")
        return cls(finalisation, headers)

    def check_of(self, digest: Digest) -> None:
        """Refuse a proof of another block; the finalisation's signatures are still to be verified."""
        for header in self.headers:
            if header.parent != digest:
                raise ProofInvalid(
                    "ProofInvalid", "a header isn't the child of the one before", header.parent
                )
            digest = header.digest()
        if self.finalisation.kind is not VoteKind.FINALIZE or self.finalisation.digest != digest:
            mend = f"the finalisation of 0x{digest.hex()}"
            raise ProofInvalid(
                "ProofInvalid", "the certificate is of another block", self.finalisation.digest, mend
            )
