"""Suite 3, SM2 with SM3 (GB/T 32918) by OpenSSL's libcrypto: the same answers as gmssl, some 35 times sooner.

`supervm.crypto.sm2_rule` judges keys, secrets and the ranges of r and s, so what a release of OpenSSL
thinks of those doesn't matter; the library is left the equation. It gets keys in one form and signatures
in one form, made here. Nonces come from its own generator, which is seeded by the system and anew after a
fork.

Objects of the library live within one call and are freed on every way out of it. The two that are shared,
its context and a key that others are copied from, are only read, so any number of threads may work at once.
OpenSSL's configuration file and its engines have no say: the context is our own.
"""

from typing import Any

import attrs

from supervm.crypto.der import from_der, to_der
from supervm.crypto.libcrypto import Libcrypto, LibraryMissing
from supervm.crypto.provider import RandomBytes
from supervm.crypto.sm2_rule import (
    ORDER,
    PUBLIC_KEY_BYTES,
    SECRET_KEY_BYTES,
    USER_ID,
    check_secret,
    draw_scalar,
    is_point,
    signature_numbers,
)
from supervm.types.address import Suite

# Any point of the curve would do for the key that the others are copied from: this one is the generator.
_GENERATOR = bytes.fromhex(
    "0432c4ae2c1f1981195f9904466a39c9948fe30bbff2660be1715a4589334c74c7"
    "bc3736a2f4f6779c59bdcee36b692153d0a9877cc62a474002df32e52139f0a0"
)
_SIGNATURE_DER_BYTES = 72

# From openssl/evp.h, core_names.h, err.h and ecerr.h, unchanged since 3.0.
_PUBLIC_KEY = 0x86
_KEY_PAIR = 0x87
_UNCOMPRESSED = 4
_LIBRARY_EC = 16
_POINT_AT_INFINITY = 106


@attrs.frozen(eq=False)
class OpensslSm2:
    """The suite. Make it with `open_provider`."""

    libcrypto: Libcrypto
    context: Any = attrs.field(repr=False)
    pattern: Any = attrs.field(repr=False)
    suite: int = Suite.SM2
    name: str = "sm2"
    secret_key_bytes: int = SECRET_KEY_BYTES
    public_key_bytes: int = PUBLIC_KEY_BYTES

    @property
    def provider(self) -> str:
        return f"{self.libcrypto.version} ({self.libcrypto.name})"

    def generate(self, random_bytes: RandomBytes) -> bytes:
        return draw_scalar(random_bytes, ORDER - 2)

    def public_key(self, secret: bytes) -> bytes:
        check_secret(secret)
        point = _multiple(self.libcrypto, self.context, secret)
        assert is_point(point), "a multiple of the generator is on the curve"
        return point

    def sign(self, secret: bytes, message: bytes) -> bytes:
        public_key = self.public_key(secret)
        signature = from_der(_sign(self.libcrypto, self.context, secret, public_key, message))
        assert signature_numbers(signature) is not None, "in range"
        return signature

    def verify(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        numbers = signature_numbers(signature)
        if numbers is None or not is_point(public_key):
            return False
        verdict = self._verdict(public_key, message, to_der(*numbers))
        if verdict is not None:
            return verdict
        # The library failed for a reason of its own, such as want of memory. To answer no would be to
        # refuse what other nodes accept.
        from supervm.crypto.sm2 import Sm2

        return Sm2().verify(public_key, message, signature)

    def _verdict(self, public_key: bytes, message: bytes, der: bytes) -> bool | None:
        """Whether the equation holds for a checked key and signature; None where the library failed."""
        lib, null = self.libcrypto.lib, self.libcrypto.ffi.NULL
        # The queue is the thread's own, and others in this process may have left something in it.
        lib.ERR_clear_error()
        key = lib.EVP_PKEY_dup(self.pattern)
        digest = lib.EVP_MD_CTX_new()
        try:
            if key == null or digest == null:
                return None
            if lib.EVP_PKEY_set1_encoded_public_key(key, public_key, len(public_key)) != 1:
                return None
            # The context of the key belongs to that of the digest and goes with it.
            inner = self.libcrypto.ffi.new("EVP_PKEY_CTX **")
            if lib.EVP_DigestVerifyInit_ex(digest, inner, b"SM3", self.context, null, key, null) != 1:
                return None
            if lib.EVP_PKEY_CTX_set1_id(inner[0], USER_ID, len(USER_ID)) != 1:
                return None
            if lib.EVP_DigestVerify(digest, der, len(der), message, len(message)) == 1:
                return True
            error = lib.ERR_peek_error()
            # A wrong signature leaves no error. A sum at infinity does, and is wrong too.
            at_infinity = (error >> 23 & 0xFF, error & 0x7FFFFF) == (_LIBRARY_EC, _POINT_AT_INFINITY)
            return False if error == 0 or at_infinity else None
        finally:
            lib.EVP_MD_CTX_free(digest)
            lib.EVP_PKEY_free(key)
            lib.ERR_clear_error()


def open_provider(libcrypto: Libcrypto) -> OpensslSm2:
    """Return the suite by this library; raises `LibraryMissing` where it was built without SM2 or SM3."""
    lib, null = libcrypto.lib, libcrypto.ffi.NULL
    context = lib.OSSL_LIB_CTX_new()
    try:
        if context == null or lib.OSSL_PROVIDER_load(context, b"default") == null:
            raise LibraryMissing(f"{libcrypto.name} has no default provider")
        pattern = _key(libcrypto, context, _GENERATOR, None)
        if pattern == null:
            raise LibraryMissing(f"{libcrypto.name} ({libcrypto.version}) was built without SM2")
        provider = OpensslSm2(libcrypto=libcrypto, context=context, pattern=pattern)
        # SM3 is an option of its own in OpenSSL's build. Any signature tells whether it is there.
        if provider._verdict(_GENERATOR, b"", to_der(1, 1)) is None:
            lib.EVP_PKEY_free(pattern)
            raise LibraryMissing(f"{libcrypto.name} ({libcrypto.version}) can't verify SM2 with SM3")
    except LibraryMissing:
        lib.OSSL_LIB_CTX_free(context)
        raise
    finally:
        lib.ERR_clear_error()
    return provider


def _key(libcrypto: Libcrypto, context: Any, public_key: bytes, secret: bytes | None) -> Any:
    """Return an EVP_PKEY that the caller frees, or NULL. Copies of the secret are wiped when freed."""
    ffi, lib = libcrypto.ffi, libcrypto.lib
    # Of the secure kind: its memory is wiped, and so is that of the parameters made from it.
    number = ffi.NULL if secret is None else lib.BN_secure_new()
    builder = lib.OSSL_PARAM_BLD_new()
    parameters = ffi.NULL
    maker = lib.EVP_PKEY_CTX_new_from_name(context, b"SM2", ffi.NULL)
    made = ffi.new("EVP_PKEY **")
    try:
        if ffi.NULL in (builder, maker):
            return ffi.NULL
        if lib.OSSL_PARAM_BLD_push_utf8_string(builder, b"group", b"SM2", 0) != 1:
            return ffi.NULL
        if lib.OSSL_PARAM_BLD_push_octet_string(builder, b"pub", public_key, len(public_key)) != 1:
            return ffi.NULL
        if secret is not None and (
            number == ffi.NULL
            or lib.BN_bin2bn(secret, len(secret), number) == ffi.NULL
            or lib.OSSL_PARAM_BLD_push_BN_pad(builder, b"priv", number, len(secret)) != 1
        ):
            return ffi.NULL
        parameters = lib.OSSL_PARAM_BLD_to_param(builder)
        if parameters == ffi.NULL or lib.EVP_PKEY_fromdata_init(maker) != 1:
            return ffi.NULL
        selection = _PUBLIC_KEY if secret is None else _KEY_PAIR
        return made[0] if lib.EVP_PKEY_fromdata(maker, made, selection, parameters) == 1 else ffi.NULL
    finally:
        lib.EVP_PKEY_CTX_free(maker)
        lib.OSSL_PARAM_free(parameters)
        lib.OSSL_PARAM_BLD_free(builder)
        lib.BN_clear_free(number)


def _sign(libcrypto: Libcrypto, context: Any, secret: bytes, public_key: bytes, message: bytes) -> bytes:
    """Return a signature in DER; raises MemoryError where the library fails, for it has no other reason."""
    ffi, lib = libcrypto.ffi, libcrypto.lib
    lib.ERR_clear_error()
    key = _key(libcrypto, context, public_key, secret)
    digest = lib.EVP_MD_CTX_new()
    inner = ffi.new("EVP_PKEY_CTX **")
    size = ffi.new("size_t *", _SIGNATURE_DER_BYTES)
    signature = ffi.new("unsigned char[]", _SIGNATURE_DER_BYTES)
    try:
        if (
            ffi.NULL in (key, digest)
            or lib.EVP_DigestSignInit_ex(digest, inner, b"SM3", context, ffi.NULL, key, ffi.NULL) != 1
            or lib.EVP_PKEY_CTX_set1_id(inner[0], USER_ID, len(USER_ID)) != 1
            or lib.EVP_DigestSign(digest, signature, size, message, len(message)) != 1
        ):
            raise MemoryError(f"{libcrypto.version} could not sign")
        return bytes(ffi.buffer(signature, size[0]))
    finally:
        lib.EVP_MD_CTX_free(digest)
        lib.EVP_PKEY_free(key)
        lib.ERR_clear_error()


def _multiple(libcrypto: Libcrypto, context: Any, secret: bytes) -> bytes:
    """Return secret G as 04 || X || Y. OpenSSL takes constant time for a multiple of the generator alone."""
    ffi, lib = libcrypto.ffi, libcrypto.lib
    lib.ERR_clear_error()
    group = lib.EC_GROUP_new_by_curve_name_ex(context, ffi.NULL, lib.OBJ_sn2nid(b"SM2"))
    point = ffi.NULL if group == ffi.NULL else lib.EC_POINT_new(group)
    number = lib.BN_secure_new()
    scratch = lib.BN_CTX_secure_new_ex(context)
    out = ffi.new("unsigned char[]", PUBLIC_KEY_BYTES)
    try:
        if (
            ffi.NULL in (group, point, number, scratch)
            or lib.BN_bin2bn(secret, len(secret), number) == ffi.NULL
            or lib.EC_POINT_mul(group, point, number, ffi.NULL, ffi.NULL, scratch) != 1
            or lib.EC_POINT_point2oct(group, point, _UNCOMPRESSED, out, PUBLIC_KEY_BYTES, scratch)
            != PUBLIC_KEY_BYTES
        ):
            raise MemoryError(f"{libcrypto.version} could not derive a public key")
        return bytes(ffi.buffer(out))
    finally:
        lib.BN_CTX_free(scratch)
        lib.BN_clear_free(number)
        lib.EC_POINT_clear_free(point)
        lib.EC_GROUP_free(group)
        lib.ERR_clear_error()
