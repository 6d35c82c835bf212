"""Suite 1, ed25519 by libsodium (PyNaCl).

Every node must accept the same signatures, so the rule is part of consensus. It is RFC 8032 with the
equation as it stands (S B = R + h A, without the cofactor), and refuses: S not below the group order;
A (the key) not in canonical form; A or R of small order. That is what libsodium's detached verification
does; its releases have differed in the past, so `check_library` tries signatures that tell the rules
apart and refuses to go on with a library that follows another.
"""

import attrs
import nacl.bindings
import nacl.exceptions

from supervm.crypto.provider import RandomBytes, UnfitLibrary
from supervm.types.address import Suite
from supervm.types.errors import InvalidInput

SECRET_KEY_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64


# One key and message; each signature is told apart by one rule. Made with the key's secret scalar, so the
# refused ones fail by that rule alone.
_MESSAGE = bytes(range(32))
_KEY = "7767a3242dc9b58bbc68488c1265cc6cc5f26c6f3c88a5d55e901b0734dca572"
_R = "6b12d4d055bd943206034b402ebe601bf715a3bbe772cdac6ab65b94d9a07bf6"
_NEUTRAL = "01" + 31 * "00"
_LIBRARY_RULES: tuple[tuple[str, bool, str, str], ...] = (
    (
        "a plain signature",
        True,
        _KEY,
        _R + "b429bab5d37e290db7f4dbed717bd7919742d9484e75120d91466d4b9a16e006",
    ),
    (
        "S not below the group order",
        False,
        _KEY,
        _R + "a1fdaf12eee13b658d91d3905075b6a69742d9484e75120d91466d4b9a16e016",
    ),
    (
        "a key with a part of small order, right with the cofactor only",
        False,
        "6a84d583f06569edb3f5ed77df65544b27d6948b4f0b2cb76f33dd8413b20719",
        _R + "c8af97127206cf1aec0a7c0d961bd7f38e3df5a11fa0d5b7f9e7a1ac4bbbb00d",
    ),
    (
        "an R with a part of small order, right with the cofactor only",
        False,
        _KEY,
        "e9c6aa47f2c1dc30d08679feb45162ca38dfa1e557af575b803e03f30110eff5"
        "18431f3528ffe7a106984f059a535344393988ca7353f5c3c8edb71139d3590b",
    ),
    (
        "a key of small order",
        False,
        _NEUTRAL,
        _R + "ea7e26e5384da55a050000000000000000000000000000000000000000000000",
    ),
    (
        "an R of small order",
        False,
        _KEY,
        _NEUTRAL + "3fe1f9b800de38d114b388611cfa2bddade473d0808680f11cf13eb241db4403",
    ),
    (
        "a key not in canonical form",
        False,
        "ee" + 30 * "ff" + "7f",
        _R + "ea7e26e5384da55a050000000000000000000000000000000000000000000000",
    ),
)


@attrs.frozen
class Ed25519:
    """The suite. A secret key is the 32-byte seed of RFC 8032."""

    suite: int = Suite.ED25519
    name: str = "ed25519"
    provider: str = "libsodium (PyNaCl)"
    secret_key_bytes: int = SECRET_KEY_BYTES
    public_key_bytes: int = PUBLIC_KEY_BYTES

    def generate(self, random_bytes: RandomBytes) -> bytes:
        return random_bytes(SECRET_KEY_BYTES)

    def public_key(self, secret: bytes) -> bytes:
        public_key, _ = _expand(secret)
        return public_key

    def sign(self, secret: bytes, message: bytes) -> bytes:
        _, expanded = _expand(secret)
        return nacl.bindings.crypto_sign(message, expanded)[:SIGNATURE_BYTES]

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
            return False
        try:
            nacl.bindings.crypto_sign_open(signature + message, public_key)
        except nacl.exceptions.BadSignatureError:
            return False
        return True


def _expand(secret: bytes) -> tuple[bytes, bytes]:
    if len(secret) != SECRET_KEY_BYTES:
        # The value is a secret, so the error names only its length.
        raise InvalidInput("BadSecretKey", "not an ed25519 secret key", f"{len(secret)} bytes", "32 bytes")
    return nacl.bindings.crypto_sign_seed_keypair(secret)


def check_library(provider: Ed25519) -> None:
    """Raise `UnfitLibrary` unless verification follows the rule above. Takes under a millisecond."""
    for rule, right, key, signature in _LIBRARY_RULES:
        if provider.verify(bytes.fromhex(key), _MESSAGE, bytes.fromhex(signature)) is not right:
            says = "refuses" if right else "accepts"
            raise UnfitLibrary(
                f"the installed libsodium {says} {rule} (install the PyNaCl release that this release names)"
            )
