"""Intel's crypto_mb, where the machine has it: eight ed25519 signatures at once, in AVX-512 registers.

It is looked for where the system's loader looks, and among the packages installed beside us (`ipp-crypto`,
with the compiler's runtime that its build asks for, `intel-cmplr-lib-rt`; the extra `crypto-mb` has both).
Opened at run time, so nothing is compiled; used are three functions whose interface has not changed since
they came. What is opened stays open. By ctypes: cffi would run a compiler to look for a name that the loader
doesn't know.

It keeps a laxer rule than the chain's (it takes keys and R of small order, and S beyond the group order),
which doesn't matter: `supervm.crypto.ed25519_rule` is asked first, and it is left the equation.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

_SYSTEM_NAMES = ("libcrypto_mb.so.13", "libcrypto_mb.so.12", "libcrypto_mb.so.11")
_PACKAGE = "ipp-crypto"
_RUNTIME = "intel-cmplr-lib-rt"
_RUNTIME_NAMES = ("libintlc.so.5", "libimf.so", "libirng.so", "libsvml.so")
"""In the order in which they need each other. The library names all of them and calls none."""

# Not unloaded, and its names are nobody else's.
_MODE = getattr(os, "RTLD_NOW", 0) | getattr(os, "RTLD_LOCAL", 0) | getattr(os, "RTLD_NODELETE", 0)


class CryptoMbMissing(Exception):
    """There is no usable crypto_mb. The message says what was tried and why each didn't do."""


@attrs.frozen(eq=False)
class CryptoMb:
    """An open library: its name with a version, and the address of `mbx_ed25519_verify_mb8`."""

    name: str
    verify_ed25519: int
    opened: Any = attrs.field(repr=False)


_opened: list[CryptoMb] = []
"""Keeps what was opened from being closed when nobody refers to it any more."""


def open_crypto_mb() -> CryptoMb:
    """Open the first that serves this processor. Looks round the disk: not for the event loop."""
    if sys.platform != "linux":
        raise CryptoMbMissing(f"not looked for on {sys.platform}")
    reasons = []
    for name, version in _candidates():
        try:
            found = _open(name, version)
        except OSError as error:
            # A name that is nowhere says nothing; one that is there and doesn't load says why.
            if "cannot open shared object file: No such file" not in str(error) or version:
                reasons.append(" ".join(str(error).split()))
            continue
        except (AttributeError, CryptoMbMissing) as error:
            reasons.append(" ".join(str(error).split()))
            continue
        _opened.append(found)
        return found
    raise CryptoMbMissing("; ".join(dict.fromkeys(reasons)) or "crypto_mb is not installed")


def _open(name: str, version: str) -> CryptoMb:
    runtime = _open_runtime() if version else ()
    lib = ctypes.CDLL(name, mode=_MODE)
    lib.mbx_get_cpu_features.restype = ctypes.c_uint64
    lib.mbx_is_crypto_mb_applicable.argtypes = [ctypes.c_uint64]
    if not lib.mbx_is_crypto_mb_applicable(lib.mbx_get_cpu_features()):
        raise CryptoMbMissing("crypto_mb has nothing for this processor")
    address = ctypes.cast(lib.mbx_ed25519_verify_mb8, ctypes.c_void_p).value
    assert address is not None, "a function that was found has an address"
    return CryptoMb(f"crypto_mb ({version or name})", address, (lib, runtime))


def _open_runtime() -> tuple[Any, ...]:
    """Open the libraries that the package's build names, so that the loader finds them by name."""
    files = {path.name: path for path in _files(_RUNTIME)}
    return tuple(ctypes.CDLL(str(files[name]), mode=_MODE) for name in _RUNTIME_NAMES if name in files)


def _candidates() -> Iterator[tuple[str, str]]:
    """(what to open, the package and its version; empty for the system's own), best first."""
    for name in _SYSTEM_NAMES:
        yield name, ""
    for path in _files(_PACKAGE):
        if path.name in _SYSTEM_NAMES:
            yield str(path), f"{_PACKAGE} {metadata.version(_PACKAGE)}"


def _files(package: str) -> list[Path]:
    try:
        listed = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return []
    return [Path(str(each.locate())).resolve() for each in listed if ".so" in each.name]
