"""Whether a library follows the rule of secp256k1, tried before it is used.

The key is that of the secret 1, the generator; the signature is a published one (RFC 6979 nonces, the hash
of "Satoshi Nakamoto" by SHA-256).
"""

from supervm.crypto.questions import Question
from supervm.crypto.secp256k1_rule import ORDER

_X = bytes.fromhex("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
_MESSAGE = bytes.fromhex("a0dc65ffca799873cbea0ac274015b9526505daaaed385155425f7337704883e")
_R = bytes.fromhex("934b1ea10a4b3c1757e2b0c017d0b6143ce3c9a7e6a4a49860d7a6ab210ee3d8")
_S = bytes.fromhex("2442ce9d2b916064108014783e923ec36b49743e2ffa1c4496f01a512aafd9e5")


def _number(value: int) -> bytes:
    return value.to_bytes(32, "big")


_MINUS_S = _number(ORDER - int.from_bytes(_S, "big"))

QUESTIONS = (
    Question("a plain signature", True, b"\x02" + _X, _MESSAGE, _R + _S),
    Question("a signature of another message", False, b"\x02" + _X, _MESSAGE[::-1], _R + _S),
    Question("the opposite key", False, b"\x03" + _X, _MESSAGE, _R + _S),
    Question("s above half of the order", False, b"\x02" + _X, _MESSAGE, _R + _MINUS_S),
    Question("another s", False, b"\x02" + _X, _MESSAGE, _R + _S[:-1] + b"\xe6"),
    Question("r and s exchanged", False, b"\x02" + _X, _MESSAGE, _S + _R),
    Question("r = 0", False, b"\x02" + _X, _MESSAGE, bytes(32) + _S),
    Question("s = 0", False, b"\x02" + _X, _MESSAGE, _R + bytes(32)),
    Question("r = n", False, b"\x02" + _X, _MESSAGE, _number(ORDER) + _S),
    Question("s = n", False, b"\x02" + _X, _MESSAGE, _R + _number(ORDER)),
    Question("numbers beyond n", False, b"\x02" + _X, _MESSAGE, 64 * b"\xff"),
    Question("a key in no compressed form", False, b"\x04" + _X, _MESSAGE, _R + _S),
    Question("a key in hybrid form", False, b"\x06" + _X, _MESSAGE, _R + _S),
    Question("a key off the curve", False, b"\x02" + _number(5), _MESSAGE, _R + _S),
    Question("a key beyond the field", False, b"\x02" + 32 * b"\xff", _MESSAGE, _R + _S),
    Question("zeros as a key", False, bytes(33), _MESSAGE, _R + _S),
)
