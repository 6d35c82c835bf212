"""OpenSSL's libcrypto as the machine has it, opened at run time (cffi in ABI mode, so nothing is compiled).

Declared are opaque pointers and functions only, all of OpenSSL 3.0's stable interface: no struct whose
layout, and no macro whose value, a release could change. Every call lets the interpreter's lock go.

What is opened stays: the library is never unloaded, because its per-thread data outlives any object of
ours.
"""

import ctypes.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from cffi import FFI

VERSION_MIN = 0x30000000
"""3.0.0, the first with the functions below."""

_DECLARATIONS = """
typedef struct evp_pkey_st EVP_PKEY;
typedef struct evp_pkey_ctx_st EVP_PKEY_CTX;
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct ossl_lib_ctx_st OSSL_LIB_CTX;
typedef struct ossl_provider_st OSSL_PROVIDER;
typedef struct ossl_param_st OSSL_PARAM;
typedef struct ossl_param_bld_st OSSL_PARAM_BLD;
typedef struct bignum_st BIGNUM;
typedef struct ec_group_st EC_GROUP;
typedef struct ec_point_st EC_POINT;
typedef struct bignum_ctx BN_CTX;

unsigned long OpenSSL_version_num(void);
const char *OpenSSL_version(int type);

OSSL_LIB_CTX *OSSL_LIB_CTX_new(void);
void OSSL_LIB_CTX_free(OSSL_LIB_CTX *);
OSSL_PROVIDER *OSSL_PROVIDER_load(OSSL_LIB_CTX *, const char *name);

void ERR_clear_error(void);
unsigned long ERR_peek_error(void);

OSSL_PARAM_BLD *OSSL_PARAM_BLD_new(void);
void OSSL_PARAM_BLD_free(OSSL_PARAM_BLD *);
int OSSL_PARAM_BLD_push_utf8_string(OSSL_PARAM_BLD *, const char *key, const char *text, size_t size);
int OSSL_PARAM_BLD_push_octet_string(OSSL_PARAM_BLD *, const char *key, const void *data, size_t size);
int OSSL_PARAM_BLD_push_BN_pad(OSSL_PARAM_BLD *, const char *key, const BIGNUM *, size_t size);
OSSL_PARAM *OSSL_PARAM_BLD_to_param(OSSL_PARAM_BLD *);
void OSSL_PARAM_free(OSSL_PARAM *);

BIGNUM *BN_secure_new(void);
BIGNUM *BN_bin2bn(const unsigned char *data, int size, BIGNUM *);
void BN_clear_free(BIGNUM *);
BN_CTX *BN_CTX_secure_new_ex(OSSL_LIB_CTX *);
void BN_CTX_free(BN_CTX *);

int OBJ_sn2nid(const char *name);
EC_GROUP *EC_GROUP_new_by_curve_name_ex(OSSL_LIB_CTX *, const char *properties, int nid);
void EC_GROUP_free(EC_GROUP *);
EC_POINT *EC_POINT_new(const EC_GROUP *);
void EC_POINT_clear_free(EC_POINT *);
int EC_POINT_mul(const EC_GROUP *, EC_POINT *, const BIGNUM *, const EC_POINT *, const BIGNUM *, BN_CTX *);
size_t EC_POINT_point2oct(const EC_GROUP *, const EC_POINT *, int form, unsigned char *, size_t, BN_CTX *);

EVP_PKEY_CTX *EVP_PKEY_CTX_new_from_name(OSSL_LIB_CTX *, const char *name, const char *properties);
void EVP_PKEY_CTX_free(EVP_PKEY_CTX *);
int EVP_PKEY_fromdata_init(EVP_PKEY_CTX *);
int EVP_PKEY_fromdata(EVP_PKEY_CTX *, EVP_PKEY **, int selection, OSSL_PARAM *);
EVP_PKEY *EVP_PKEY_dup(EVP_PKEY *);
int EVP_PKEY_set1_encoded_public_key(EVP_PKEY *, const unsigned char *, size_t);
void EVP_PKEY_free(EVP_PKEY *);
int EVP_PKEY_CTX_set1_id(EVP_PKEY_CTX *, const void *id, int size);

EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *);
int EVP_DigestVerifyInit_ex(EVP_MD_CTX *, EVP_PKEY_CTX **, const char *digest, OSSL_LIB_CTX *,
                            const char *properties, EVP_PKEY *, const OSSL_PARAM *);
int EVP_DigestVerify(EVP_MD_CTX *, const unsigned char *signature, size_t, const unsigned char *, size_t);
int EVP_DigestSignInit_ex(EVP_MD_CTX *, EVP_PKEY_CTX **, const char *digest, OSSL_LIB_CTX *,
                          const char *properties, EVP_PKEY *, const OSSL_PARAM *);
int EVP_DigestSign(EVP_MD_CTX *, unsigned char *signature, size_t *, const unsigned char *, size_t);
"""


class LibraryMissing(Exception):
    """There is no usable libcrypto. The message says what was tried and why each didn't do."""


@attrs.frozen(eq=False)
class Libcrypto:
    """An open library. `lib` has the functions above as attributes; `name` is what it was opened as."""

    ffi: Any
    lib: Any
    name: str
    version: str


_opened: list[Libcrypto] = []
"""Keeps what was opened from being closed when nobody refers to it any more."""


def open_libcrypto() -> Libcrypto:
    """Open the first that is new enough and whole. May look round the disk: not for the event loop."""
    ffi = FFI()
    ffi.cdef(_DECLARATIONS)
    reasons = []
    for name in _candidates(sys.platform):
        try:
            # Never unloaded where the system can promise it; elsewhere the reference below does.
            lib = ffi.dlopen(name, ffi.RTLD_NOW | getattr(ffi, "RTLD_NODELETE", 0))
            found = _examine(ffi, lib, name)
        except (OSError, AttributeError, LibraryMissing) as error:
            reasons.append(" ".join(str(error).split()))
            continue
        _opened.append(found)
        return found
    raise LibraryMissing("; ".join(reasons) if reasons else "no libcrypto was found")


def _examine(ffi: Any, lib: Any, name: str) -> Libcrypto:
    """Return the library with every function there; raises LibraryMissing, or AttributeError naming one."""
    version = lib.OpenSSL_version_num()
    text = ffi.string(lib.OpenSSL_version(0)).decode(errors="replace")
    # LibreSSL says 2.0 for good, and keeps the line of its own name.
    if version < VERSION_MIN or not text.startswith("OpenSSL "):
        raise LibraryMissing(f"{name} is {text}, and OpenSSL 3.0 or later is needed")
    for function in _functions(ffi):
        getattr(lib, function)
    return Libcrypto(ffi=ffi, lib=lib, name=name, version=" ".join(text.split()[:2]))


def _functions(ffi: Any) -> list[str]:
    """The names of all functions declared."""
    return [
        line.split("(")[0].split()[-1].lstrip("*")
        for line in _DECLARATIONS.splitlines()
        if "(" in line and not line.startswith((" ", "typedef"))
    ]


def _candidates(platform: str) -> Iterator[str]:
    """What to open, best first. No bare name on Windows: it would be looked for in the current folder."""
    base = Path(sys.base_prefix)
    if platform == "win32":
        yield from (str(path) for path in sorted((base / "DLLs").glob("libcrypto-[34]*.dll")))
    elif platform == "darwin":
        # Only files with a version: macOS ends a process that opens its own libcrypto.dylib.
        folders = (
            base / "lib",
            Path("/opt/homebrew/opt/openssl@3/lib"),
            Path("/usr/local/opt/openssl@3/lib"),
            Path("/opt/local/lib"),
        )
        names = ("libcrypto.3.dylib", "libcrypto.4.dylib")
        yield from (str(path) for folder in folders for name in names if (path := folder / name).exists())
    else:
        yield from ("libcrypto.so.3", "libcrypto.so.4")
        # Starts a process or two, so it comes last.
        if (found := ctypes.util.find_library("crypto")) is not None:
            yield found
