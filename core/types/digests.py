"""Digests: blake3 with a domain in front, so that a digest of one kind never passes for another."""

from blake3 import blake3

Digest = bytes
"""32 bytes."""

DIGEST_BYTES = 32
ZERO = bytes(32)

TRANSACTION = b"supervm/tx/v1"
OBJECT = b"supervm/object/v1"
TOKEN = b"supervm/token/v1"
ADDRESS = b"supervm/address/v1"
NODE = b"supervm/node/v1"
BATCH = b"supervm/batch/v1"
BLOCK = b"supervm/block/v1"
BODY = b"supervm/body/v1"
VALIDATORS = b"supervm/validators/v1"
VOTE = b"supervm/vote/v1"
EFFECTS = b"supervm/effects/v1"
GENESIS = b"supervm/genesis/v1"
LEADER = b"supervm/leader/v1"
STAKE = b"supervm/stake/v1"

DOMAINS = frozenset(
    {
        TRANSACTION,
        OBJECT,
        TOKEN,
        ADDRESS,
        NODE,
        BATCH,
        BLOCK,
        BODY,
        VALIDATORS,
        VOTE,
        EFFECTS,
        GENESIS,
        LEADER,
        STAKE,
    }
)


def digest(domain: bytes, *parts: bytes) -> Digest:
    """Return blake3(domain || parts), 32 bytes. No domain is a prefix of another."""
    return blake3(b"".join((domain, *parts))).digest()


def plain_digest(data: bytes) -> Digest:
    """Return blake3(data), 32 bytes: for trees, checksums and caches, which bring their own prefixes."""
    return blake3(data).digest()
