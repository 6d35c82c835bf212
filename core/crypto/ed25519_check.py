"""Signatures that tell the rules of ed25519 apart, tried on a library before it is used.

Who answers one of them otherwise would leave the consensus. Each was made with the secret scalars of its
key and its R, so that the refused ones hold but for one thing: `tests/crypto` makes them again, and judges
them by the curve in plain integers. Messages are 32 times one byte.
"""

from collections.abc import Iterator

from supervm.crypto.questions import Question

_KEY = "2543b92ff1095511476adc8369db6ddc933665a11978dda1404ee1066ca9559d"
_MIXED_KEY = "3af65527a5e289fd6f661607a1256139c4f559caf1dce5160cc16abe1d8ee251"
_R = "9c05bb589013e236a34b4afef6e95cfbf11de326da8c9828209c84fc9f44d751"
_MIXED_R = "439b92686310798bb3181bb597012457de123e89c159d3e01aa4fd11dca5911a"
_R_SCALAR = "78377b525757b494427f89014f97d79928f3938d14eb51e20fb5dec9834eb304"
"""r, the S that is right for R where the key is of small order and h a multiple of 8."""

_SMALL_ORDER: tuple[tuple[str, int, int, str], ...] = (
    # All that a lenient decoder reads as a point of small order. The message for it as the key; the message,
    # and S, for it as R with the mixed key.
    (
        "0000000000000000000000000000000000000000000000000000000000000000",
        2,
        7,
        "bb13c0c55cc131ed6aeac4249982d57efaad57cb1d9e0963a69c03177196b602",
    ),
    (
        "0000000000000000000000000000000000000000000000000000000000000080",
        11,
        4,
        "7f30128012715dbdad2d69ab15f5a2da76e7052e6aae6c84718b34e7585c4205",
    ),
    (
        "0100000000000000000000000000000000000000000000000000000000000000",
        20,
        3,
        "30e61b291979a40f81a15c197254b968f1593ed3bf915ef6c59628d6c8204704",
    ),
    (
        "0100000000000000000000000000000000000000000000000000000000000080",
        10,
        4,
        "c272ac9344f55e1a69902451d34ab6dea7ab111cf3efb6679e7f2818fca5d400",
    ),
    (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        3,
        11,
        "1e3f74af0796b380dfc219a88ef8178fe6384ed20f26f62f843af9116e71d50c",
    ),
    (
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        1,
        2,
        "28c65961cf44ea7f22223f4d24cee7f6b227037a88c658ff332b4a4a3097af0d",
    ),
    (
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        36,
        9,
        "7ab8e6e00eaac90b5184b7f73b5731cbc80f4bca1e4448ccc902543cf2875a0b",
    ),
    (
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        5,
        4,
        "feb1380f77df45db918c9f30a34b66281a574af0cbfc8ba9107777dd0bea1e0b",
    ),
    (
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        3,
        11,
        "fb16f617d0153f7f4c89bf0765388f6a6b34713a3edc215806f3dcdaaa542903",
    ),
    (
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        1,
        11,
        "3fa2a84ea1690c989b1c11d66d7c7468d57568801455ed26c51ba3335356d00c",
    ),
    (
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        11,
        6,
        "0a39804fe9828ab9bc8d25dd1f46c79c6f8d552fbdd3696a758ad50d36252d0c",
    ),
    (
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        5,
        13,
        "30e2be95e3d1f13d533e1a3b125790eaaa723332fdadf3f63d246c07bd61f408",
    ),
    (
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        2,
        3,
        "5608833763e956a6b1862b556736a42949e0d8c696c971f11732e64c5eda8f05",
    ),
    (
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        11,
        8,
        "cb8eef65db107acccc8d79128b1f58ba526b9f0e43162813b7cc07c7f109b906",
    ),
)

_OTHERS: tuple[tuple[str, bool, int, str, str, str], ...] = (
    # What, whether it is right, message, key, R, S.
    (
        "a plain signature",
        True,
        1,
        _KEY,
        _R,
        "1c43cbb6136f0d346cc351cf819553efd9a6ac89680926f1f589ec265f1e8805",
    ),
    (
        "a signature of another message",
        False,
        2,
        _KEY,
        _R,
        "1c43cbb6136f0d346cc351cf819553efd9a6ac89680926f1f589ec265f1e8805",
    ),
    ("another S", False, 1, _KEY, _R, "1d43cbb6136f0d346cc351cf819553efd9a6ac89680926f1f589ec265f1e8805"),
    (
        "the opposite key",
        False,
        1,
        "2543b92ff1095511476adc8369db6ddc933665a11978dda1404ee1066ca9551d",
        _R,
        "1c43cbb6136f0d346cc351cf819553efd9a6ac89680926f1f589ec265f1e8805",
    ),
    (
        "the opposite R",
        False,
        1,
        _KEY,
        "9c05bb589013e236a34b4afef6e95cfbf11de326da8c9828209c84fc9f44d7d1",
        "1c43cbb6136f0d346cc351cf819553efd9a6ac89680926f1f589ec265f1e8805",
    ),
    (
        "S not below the group order",
        False,
        1,
        _KEY,
        _R,
        "0917c1132ed21f8c42604972608f3204daa6ac89680926f1f589ec265f1e8815",
    ),
    (
        "S not below the group order",
        False,
        1,
        _KEY,
        _R,
        "f6eab670483532e418fd40153f891119daa6ac89680926f1f589ec265f1e8825",
    ),
    (
        "S not below the group order",
        False,
        1,
        _KEY,
        _R,
        "970e8441cc248e9c480d1744986a6c81daa6ac89680926f1f589ec265f1e8875",
    ),
    (
        "S not below the group order",
        False,
        1,
        _KEY,
        _R,
        "84e2799ee687a0f41eaa0ee776644b96daa6ac89680926f1f589ec265f1e8885",
    ),
    (
        "S not below the group order",
        False,
        1,
        _KEY,
        _R,
        "ffad32299f3d215dfbf3d35b8d396428dba6ac89680926f1f589ec265f1e88f5",
    ),
    (
        "a key with a part of small order, right with the cofactor only",
        False,
        1,
        _MIXED_KEY,
        _R,
        "d0b84663f1c03ab5fcd5a2035e6feecb1d435fa480cde6905287f722316db706",
    ),
    (
        "a key with a part of small order that vanishes",
        True,
        9,
        _MIXED_KEY,
        _R,
        "4053a5b740f3a54862a738db1275dae883d652248440db2ddb714db89706b708",
    ),
    (
        "an R with a part of small order, right with the cofactor only",
        False,
        1,
        _KEY,
        _MIXED_R,
        "46bce3245f8fbdd4da2eff0f7d00472728e7220b0f174950bd641928ff97060c",
    ),
    (
        "a key and an R with parts of small order, right with the cofactor only",
        False,
        1,
        _MIXED_KEY,
        _MIXED_R,
        "330aa245e8b4fe7e46b87e69390583343505f8f4c7f411ef9c539b11b6ff1e01",
    ),
    (
        "a key and an R with parts of small order that cancel",
        True,
        5,
        _MIXED_KEY,
        _MIXED_R,
        "ca6a96cf4925792f0553d487f194792bf1cd56f5c66738a47bce86d68060a406",
    ),
    (
        "a key not in canonical form",
        False,
        1,
        "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        _R,
        _R_SCALAR,
    ),
    (
        "an R not in canonical form",
        False,
        1,
        _KEY,
        "f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "70ec867bc13bb465857efd6b8b53c6c7b6db7a5434655e3a87ca3072d499f405",
    ),
    (
        "a key off the curve",
        False,
        1,
        "0200000000000000000000000000000000000000000000000000000000000000",
        _R,
        _R_SCALAR,
    ),
    (
        "an R off the curve",
        False,
        1,
        _KEY,
        "0200000000000000000000000000000000000000000000000000000000000000",
        "fdc3faca608f425e008c4ac06b97e50ec5318bc617bd05cde18629ed9694ef02",
    ),
)


def _questions() -> Iterator[Question]:
    for what, right, message, key, r, s in _OTHERS:
        yield Question(
            what, right, bytes.fromhex(key), bytes((message,)) * 32, bytes.fromhex(r) + bytes.fromhex(s)
        )
    for point, as_key, as_r, s in _SMALL_ORDER:
        yield Question(
            f"the key {point}, of small order",
            False,
            bytes.fromhex(point),
            bytes((as_key,)) * 32,
            bytes.fromhex(_R + _R_SCALAR),
        )
        yield Question(
            f"the R {point}, of small order",
            False,
            bytes.fromhex(_MIXED_KEY),
            bytes((as_r,)) * 32,
            bytes.fromhex(point + s),
        )


QUESTIONS = tuple(_questions())
