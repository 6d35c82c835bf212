"""Which libraries the C driver of signature checks asks on this machine, and why (TIER-70).

Each is tried through the driver on the signatures of its suite's `_check` module, alone, so that a library
which fails is told by name and left out.
"""

from collections.abc import Sequence
from importlib import import_module

import attrs

from supervm.crypto import ed25519_check, questions, secp256k1_check
from supervm.crypto.batch import ONE_BY_ONE
from supervm.crypto.crypto_mb import CryptoMb, CryptoMbMissing, open_crypto_mb
from supervm.crypto.provider import UnfitLibrary
from supervm.crypto.questions import Answers, Question
from supervm.hardware import fastpath
from supervm.types.address import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Suite

if fastpath.NATIVE:
    from supervm.hardware.fastpath.verifying import MESSAGE_BYTES_MAX, Driver, make_driver

Addresses = dict[str, int]


class FunctionMissing(Exception):
    """A library doesn't show a function by its address. The message names both."""


@attrs.frozen
class Chosen:
    """The driver and the suites that it is for; `facts` has what serves each of those, and why.

    `reason` is why all others are asked one by one; `unfit` what failed its questions, and which.
    """

    driver: "Driver | None"
    suites: frozenset[int]
    facts: dict[int, tuple[str, str]]
    reason: str
    message_bytes_max: int = 0
    unfit: tuple[str, ...] = ()


@attrs.frozen
class _Found:
    """What serves a suite: its functions, the facts, and a library that would be faster but is unfit."""

    addresses: Addresses
    facts: tuple[str, str]
    unfit: tuple[str, ...] = ()


def choose() -> Chosen:
    """Open the libraries, try them, and return what passed. Blocks for some 50 ms."""
    if not fastpath.NATIVE:
        return Chosen(None, frozenset(), {}, fastpath.report()["verify_signatures"].reason)
    addresses: Addresses = {}
    facts: dict[int, tuple[str, str]] = {}
    unfit: tuple[str, ...] = ()
    for number, find in ((Suite.ED25519, _ed25519), (Suite.SECP256K1, _secp256k1)):
        try:
            found = find()
        except FunctionMissing as error:
            found = _Found({}, (ONE_BY_ONE, str(error)))
        except UnfitLibrary as error:
            found = _Found({}, (ONE_BY_ONE, str(error)), (str(error),))
        addresses |= found.addresses
        facts[number] = found.facts
        unfit += found.unfit
    driver = make_driver(addresses)
    suites = frozenset(number for number in facts if driver.able(number))
    return Chosen(driver, suites, facts, "no library takes many at once", MESSAGE_BYTES_MAX, unfit)


def _ed25519() -> _Found:
    sodium = sodium_addresses()
    questions.put(ed25519_check.QUESTIONS, "libsodium", _through(make_driver(sodium), Suite.ED25519))
    try:
        library = _open_lanes()
        lanes = {"ed25519_verify_mb8": library.verify_ed25519}
        # Alone, so that nobody's second opinion hides what it says.
        alone = _through(make_driver(lanes), Suite.ED25519)
        questions.put(ed25519_check.QUESTIONS, library.name, alone, lanes=8)
    except CryptoMbMissing as error:
        return _Found(sodium, ("libsodium", str(error)))
    except UnfitLibrary as error:
        return _Found(sodium, ("libsodium", str(error)), (str(error),))
    batch = f"{library.name}, eight at once; what it refuses is asked of libsodium"
    return _Found(sodium | lanes, (batch, "the processor has its instructions, and it keeps the rule"))


def _secp256k1() -> _Found:
    found = secp256k1_addresses()
    questions.put(secp256k1_check.QUESTIONS, "libsecp256k1", _through(make_driver(found), Suite.SECP256K1))
    return _Found(found, ("libsecp256k1", "it keeps the rule"))


def sodium_addresses() -> Addresses:
    """What a driver needs of libsodium; raises `FunctionMissing`."""
    return _addresses("nacl._sodium", "libsodium", {"ed25519_open": "crypto_sign_open"})


def lanes_addresses() -> Addresses:
    """What a driver needs of crypto_mb; raises `CryptoMbMissing`."""
    return {"ed25519_verify_mb8": _open_lanes().verify_ed25519}


def secp256k1_addresses() -> Addresses:
    """What a driver needs of libsecp256k1; raises `FunctionMissing`."""
    names = {
        "secp256k1_key": "secp256k1_ec_pubkey_parse",
        "secp256k1_signature": "secp256k1_ecdsa_signature_parse_compact",
        "secp256k1_verify": "secp256k1_ecdsa_verify",
    }
    return _addresses("coincurve._libsecp256k1", "libsecp256k1", names, context="secp256k1_context_static")


def _open_lanes() -> CryptoMb:
    if "avx512f" not in (fastpath.cpu_features() or ()):
        raise CryptoMbMissing("the processor has no AVX-512, which crypto_mb needs")
    return open_crypto_mb()


def _addresses(module: str, library: str, names: dict[str, str], *, context: str = "") -> Addresses:
    """Ask a binding that cffi made for the addresses of functions of its library."""
    try:
        binding = import_module(module)
        ffi, lib = binding.ffi, binding.lib
        found = {ours: int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for ours, name in names.items()}
        if context:
            found["secp256k1_context"] = int(ffi.cast("uintptr_t", getattr(lib, context)))
    except (ImportError, AttributeError) as error:
        raise FunctionMissing(f"{library} can't be asked by address: {error}") from error
    return found


def _through(driver: "Driver", number: int) -> Answers:
    """Questions to answers, by this driver."""

    def answers(asked: Sequence[Question]) -> Sequence[bool]:
        size = PUBLIC_KEY_BYTES[number]
        width = size + SIGNATURE_BYTES
        rows = [
            column
            for at in range(len(asked))
            for column in (number, at * width, at * width + size, at * 32, 32)
        ]
        data = b"".join(each.public_key + each.signature for each in asked)
        found = driver.verify(data, b"".join(each.message for each in asked), rows)
        return [one == 1 for one in found]

    return answers
