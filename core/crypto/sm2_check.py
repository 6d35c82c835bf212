"""Whether a library follows the rule of SM2, tried before it is used (NET-11).

The questions are few and fixed, and each is one on which libraries have gone wrong or could. Who answers
one of them otherwise would leave the consensus, so it isn't used at all.
"""

from supervm.crypto.provider import SignatureProvider, UnfitLibrary
from supervm.crypto.sm2_rule import FIELD, ORDER

# GB/T 32918.5 with the user id 1234567812345678.
_SECRET = bytes.fromhex("3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8")
_X = bytes.fromhex("09f9df311e5421a150dd7d161e4bc5c672179fad1833fc076bb08ff356f35020")
_Y = bytes.fromhex("ccea490ce26775a52dc6ea718cc1aa600aed05fbf35e084a6632f6072da9ad13")
_KEY = b"\x04" + _X + _Y
_MESSAGE = b"message digest"
_R = bytes.fromhex("f5a03b0648d2c4630eeac513e1bb81a15944da3827d5b74143ac7eaceee720b3")
_S = bytes.fromhex("b1b6aa29df212fd8763182bc0d421ca1bb9038fd1f7f42d4840b69c485bbc1aa")

# Made with the same secret: numbers that take fewer bytes in DER, and messages of other lengths.
_DIGEST = bytes(range(32))
_SHORT_R = bytes.fromhex(
    "00aabecc34c32b7e0f88d1847c92b7dfc09b6d881a432493d6250511049ef317"
    "3a7ec2a8c499665813728bf32a342461728e4294bb380854fe2acd24ca56cba8"
)
_SHORT_S = bytes.fromhex(
    "ba42f511a8674d06f5a0ebf4edb9530e8392d135f8cb30c4c90c07c9fe60e01e"
    "001d5bd476c7ee6fe5e654e409133c9a37be1e1dcc7fb4c14f6302c1a1e5ac1d"
)
_OF_NOTHING = bytes.fromhex(
    "9033f7ba001f41cb3222b13906392ca4c1fd27e886f0a97741810bd2214e0854"
    "df1f976e74ff34414de9543d60bcce1d69f806cbf8e632b4786ac97d9705df31"
)
_OF_300_BYTES = bytes.fromhex(
    "84a635389af028bce48005106b646af4a45c8c6f7311493343a3105c3c0bbe8b"
    "293e464b42629acd91079143478021748cb51329277102a8196c1a5c4d25ee1c"
)
# s = -t d, which only the owner of d can choose: s G + t P is infinity and has no x.
_AT_INFINITY = bytes.fromhex(
    "b67f31d1a74987515de2af2df30a97e268baef8cdecf7f1dfc41d566144233b6"
    "4980ce2d58b678aea21d50d20cf5681d0948efde42f6860d577a1ea325933da6"
)


def _number(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _plus(number: bytes, more: int) -> bytes:
    return _number(int.from_bytes(number, "big") + more)


_RULES: tuple[tuple[str, bool, bytes, bytes, bytes], ...] = (
    ("the published signature", True, _KEY, _MESSAGE, _R + _S),
    ("a signature with a short r", True, _KEY, _DIGEST, _SHORT_R),
    ("a signature with a short s", True, _KEY, _DIGEST, _SHORT_S),
    ("a signature of an empty message", True, _KEY, b"", _OF_NOTHING),
    ("a signature of a long message", True, _KEY, 300 * b"a", _OF_300_BYTES),
    ("a signature of another message", False, _KEY, _DIGEST, _R + _S),
    ("another r", False, _KEY, _MESSAGE, _plus(_R, 1) + _S),
    ("another s", False, _KEY, _MESSAGE, _R + _plus(_S, 1)),
    ("r and s exchanged", False, _KEY, _MESSAGE, _S + _R),
    ("r = 0", False, _KEY, _MESSAGE, bytes(32) + _S),
    ("s = 0", False, _KEY, _MESSAGE, _R + bytes(32)),
    ("r = n", False, _KEY, _MESSAGE, _number(ORDER) + _S),
    ("s = n", False, _KEY, _MESSAGE, _R + _number(ORDER)),
    ("r beyond n", False, _KEY, _MESSAGE, 32 * b"\xff" + _S),
    ("s beyond n", False, _KEY, _MESSAGE, _R + 32 * b"\xff"),
    ("r + s = n", False, _KEY, _MESSAGE, _R + _number(ORDER - int.from_bytes(_R, "big"))),
    ("a point at infinity", False, _KEY, _DIGEST, _AT_INFINITY),
    ("a signature of 63 bytes", False, _KEY, _MESSAGE, (_R + _S)[:63]),
    ("a signature of 65 bytes", False, _KEY, _MESSAGE, _R + _S + b"\0"),
    ("a key off the curve", False, b"\x04" + _X + _plus(_Y, 1), _MESSAGE, _R + _S),
    ("a key beyond the field", False, b"\x04" + _number(FIELD) + _Y, _MESSAGE, _R + _S),
    ("the opposite key", False, b"\x04" + _X + _number(FIELD - int.from_bytes(_Y, "big")), _MESSAGE, _R + _S),
    ("a compressed key", False, b"\x03" + _X, _MESSAGE, _R + _S),
    ("a hybrid key", False, b"\x07" + _X + _Y, _MESSAGE, _R + _S),
    ("a key without its first byte", False, _X + _Y, _MESSAGE, _R + _S),
    ("infinity as a key", False, b"\0", _MESSAGE, _R + _S),
    ("zeros as a key", False, b"\x04" + bytes(64), _MESSAGE, _R + _S),
)


def check_library(provider: SignatureProvider) -> None:
    """Raise `UnfitLibrary` unless the provider keeps the rule. About 30 operations: 10 ms in C."""
    for what, right, key, message, signature in _RULES:
        if provider.verify(key, message, signature) is not right:
            raise UnfitLibrary(f"{provider.provider} {'refuses' if right else 'accepts'} {what}")
    if provider.public_key(_SECRET) != _KEY:
        raise UnfitLibrary(f"{provider.provider} derives another public key")
    one, other = (provider.sign(_SECRET, _DIGEST) for _ in range(2))
    if not (provider.verify(_KEY, _DIGEST, one) and provider.verify(_KEY, _DIGEST, other)):
        raise UnfitLibrary(f"{provider.provider} refuses its own signature")
    # Two signatures with one nonce give the secret away.
    if one == other:
        raise UnfitLibrary(f"{provider.provider} signs twice with the same nonce")
