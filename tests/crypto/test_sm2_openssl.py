"""OpenSSL and gmssl give the same answers, and the C library is used without leaks, races or surprises."""

import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervm.crypto import libcrypto, sm2_rule, suites
from supervm.crypto.der import from_der, to_der
from supervm.crypto.libcrypto import LibraryMissing
from supervm.crypto.sm2_openssl import OpensslSm2, open_provider
from supervm.crypto.suites import provider_facts, suite
from tests import needs
from tests.crypto.sm2_cases import LIBCRYPTO, MESSAGE, MISSING, NATIVE, PORTABLE, SECRET, SIGNATURE

needs_library = pytest.mark.skipif(NATIVE is None, reason=MISSING)
DIGEST = bytes(range(32))
EDGES = [0, 1, 2, sm2_rule.ORDER - 1, sm2_rule.ORDER, sm2_rule.ORDER + 1, 2**255, 2**256 - 1]
SECRETS = [random.Random(seed).randrange(1, sm2_rule.ORDER - 1).to_bytes(32, "big") for seed in range(4)]
KEYS = [PORTABLE.public_key(secret) for secret in SECRETS]


def native() -> OpensslSm2:
    assert NATIVE is not None
    return NATIVE


def both(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """The answer of both, which must be one."""
    answer = PORTABLE.verify(public_key, message, signature)
    assert native().verify(public_key, message, signature) is answer
    return answer


@needs_library
@settings(max_examples=25, deadline=None)
@given(st.integers(1, sm2_rule.ORDER - 2), st.binary(max_size=200))
def test_what_one_signs_the_other_accepts(secret: int, message: bytes) -> None:
    raw = secret.to_bytes(32, "big")
    public_key = native().public_key(raw)
    assert public_key == PORTABLE.public_key(raw)
    for signer in (PORTABLE, native()):
        signature = signer.sign(raw, message)
        assert both(public_key, message, signature)
        assert not both(public_key, message + b"x", signature)


@needs_library
@settings(max_examples=120, deadline=None)
@given(st.data())
def test_mutated_signatures_keys_and_messages_get_one_answer(data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(KEYS) - 1))
    parts = [KEYS[at], DIGEST, native().sign(SECRETS[at], DIGEST)]
    for _ in range(data.draw(st.integers(0, 2))):
        part = data.draw(st.integers(0, 2))
        changed = bytearray(parts[part])
        what = data.draw(st.sampled_from(["flip", "cut", "add"]))
        if what == "flip" and changed:
            changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "cut":
            del changed[data.draw(st.integers(0, len(changed))) :]
        else:
            changed += data.draw(st.binary(max_size=3))
        parts[part] = bytes(changed)
    both(*parts)


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KEYS),
    st.one_of(st.sampled_from(EDGES), st.integers(0, 2**256 - 1)),
    st.one_of(st.sampled_from(EDGES), st.integers(0, 2**256 - 1)),
)
def test_any_two_numbers_get_one_answer(public_key: bytes, r: int, s: int) -> None:
    assert both(public_key, DIGEST, r.to_bytes(32, "big") + s.to_bytes(32, "big")) is False


@needs_library
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([2, 3, 4, 6, 7, 0]),
    st.one_of(st.sampled_from([0, sm2_rule.FIELD - 1, sm2_rule.FIELD]), st.integers(0, 2**256 - 1)),
    st.one_of(st.sampled_from([0, sm2_rule.FIELD - 1, sm2_rule.FIELD]), st.integers(0, 2**256 - 1)),
)
def test_any_bytes_as_a_key_get_one_answer(first: int, x: int, y: int) -> None:
    whole = bytes((first,)) + x.to_bytes(32, "big") + y.to_bytes(32, "big")
    for public_key in (whole, whole[:33], whole[:1]):
        assert both(public_key, MESSAGE, SIGNATURE) is False


@needs_library
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_garbage_gets_one_answer(public_key: bytes, message: bytes, signature: bytes) -> None:
    assert both(public_key, message, signature) is False


@needs_library
def test_the_chosen_provider_is_named_with_its_version_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "_providers", {})
    monkeypatch.delenv("SUPERVM_NATIVE", raising=False)
    facts = provider_facts("sm2")
    assert facts.provider == native().provider
    assert facts.provider.startswith("OpenSSL ")
    assert "keeps the rule" in facts.reason


@pytest.mark.parametrize("value", ["off", " OFF "])
def test_an_operator_can_force_gmssl(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setattr(suites, "_providers", {})
    monkeypatch.setenv("SUPERVM_NATIVE", value)
    facts = provider_facts("sm2")
    assert (facts.provider, facts.reason) == ("gmssl", "SUPERVM_NATIVE is off")


def test_without_a_library_gmssl_serves_and_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "_providers", {})
    monkeypatch.delenv("SUPERVM_NATIVE", raising=False)
    monkeypatch.setattr(libcrypto, "_candidates", lambda platform: iter(["libcrypto-that-is-not-there.so"]))
    facts = provider_facts("sm2")
    assert facts.provider == "gmssl"
    assert "libcrypto-that-is-not-there.so" in facts.reason
    assert suite(3).verify(PORTABLE.public_key(SECRET), MESSAGE, SIGNATURE)


@needs.linux
def test_a_library_without_our_functions_is_passed_over_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libcrypto, "_candidates", lambda platform: iter(["libm.so.6"]))
    with pytest.raises(LibraryMissing, match=r"OpenSSL_version_num.*libm\.so\.6"):
        libcrypto.open_libcrypto()


class Altered:
    """The library with some of its functions replaced, and every call of a maker and a freer counted."""

    def __init__(self, lib: Any, **replaced: Any) -> None:
        self._lib = lib
        self._replaced = replaced
        self.calls: list[str] = []
        self.live: Counter[str] = Counter()
        self.fails_at: int | None = None

    def __getattr__(self, name: str) -> Any:
        found = self._replaced.get(name) or getattr(self._lib, name)

        def call(*arguments: Any) -> Any:
            if name.startswith(("ERR_", "OBJ_")):
                return found(*arguments)
            kind = _KINDS.get(name)
            if name.endswith("_free"):
                if arguments[0]:
                    self.live[name] -= 1
                return found(*arguments)
            self.calls.append(name)
            if self.fails_at == len(self.calls) - 1:
                assert LIBCRYPTO is not None
                return LIBCRYPTO.ffi.NULL if kind or name in _POINTERS else 0
            result = found(*arguments)
            if kind and result:
                self.live[kind] += 1
            if name == "EVP_PKEY_fromdata" and result == 1:
                self.live["EVP_PKEY_free"] += 1
            return result

        return call


_KINDS = {
    "OSSL_LIB_CTX_new": "OSSL_LIB_CTX_free",
    "OSSL_PARAM_BLD_new": "OSSL_PARAM_BLD_free",
    "OSSL_PARAM_BLD_to_param": "OSSL_PARAM_free",
    "BN_secure_new": "BN_clear_free",
    "BN_CTX_secure_new_ex": "BN_CTX_free",
    "EC_GROUP_new_by_curve_name_ex": "EC_GROUP_free",
    "EC_POINT_new": "EC_POINT_clear_free",
    "EVP_PKEY_CTX_new_from_name": "EVP_PKEY_CTX_free",
    "EVP_PKEY_dup": "EVP_PKEY_free",
    "EVP_MD_CTX_new": "EVP_MD_CTX_free",
}
_POINTERS = {"BN_bin2bn", "OSSL_PROVIDER_load"}


def altered(**replaced: Any) -> tuple[OpensslSm2, Altered]:
    provider = native()
    lib = Altered(provider.libcrypto.lib, **replaced)
    return attrs.evolve(provider, libcrypto=attrs.evolve(provider.libcrypto, lib=lib)), lib


@needs_library
def test_a_verification_frees_what_it_made_whatever_the_answer() -> None:
    provider, lib = altered()
    d = int.from_bytes(SECRET, "big")
    infinity = to_der(12345 * (1 + d) % sm2_rule.ORDER, -12345 * d % sm2_rule.ORDER)
    public_key = provider.public_key(SECRET)
    for signature in (SIGNATURE, SIGNATURE[::-1], from_der(infinity), bytes(64)):
        provider.verify(public_key, MESSAGE, signature)
    provider.sign(SECRET, MESSAGE)
    assert lib.calls.count("EVP_DigestVerify") == 3
    assert set(lib.live.values()) == {0}


@needs_library
def test_a_sum_at_infinity_is_answered_by_the_library_and_not_by_the_slow_one() -> None:
    """Else its maker could choose the 10 ms of gmssl for us."""
    d = int.from_bytes(SECRET, "big")
    der = to_der(12345 * (1 + d) % sm2_rule.ORDER, -12345 * d % sm2_rule.ORDER)
    assert native()._verdict(native().public_key(SECRET), DIGEST, der) is False


@needs_library
def test_whichever_call_of_the_library_fails_the_answer_is_right_and_nothing_leaks() -> None:
    provider, lib = altered()
    public_key = PORTABLE.public_key(SECRET)
    assert provider.verify(public_key, MESSAGE, SIGNATURE)
    steps = len(lib.calls)
    assert steps == 6
    # The last is the comparison, whose failure without an error in the queue is a wrong signature.
    for step in range(steps - 1):
        for signature in (SIGNATURE, SIGNATURE[32:] + SIGNATURE[:32]):
            provider, lib = altered()
            lib.fails_at = step
            assert provider.verify(public_key, MESSAGE, signature) is (signature == SIGNATURE)
            assert provider._verdict(public_key, MESSAGE, to_der(1, 1)) is not True
            assert set(lib.live.values()) <= {0}


@needs_library
def test_an_unknown_error_of_the_library_is_settled_by_gmssl() -> None:
    provider, _ = altered(EVP_DigestVerify=lambda *_: 0, ERR_peek_error=lambda: 15 << 23 | 786688)
    public_key = PORTABLE.public_key(SECRET)
    assert provider.verify(public_key, MESSAGE, SIGNATURE) is True
    assert provider.verify(public_key, MESSAGE, SIGNATURE[::-1]) is False


@needs_library
def test_signing_that_fails_anywhere_raises_and_leaks_nothing() -> None:
    provider, lib = altered()
    provider.sign(SECRET, MESSAGE)
    for step in range(len(lib.calls)):
        provider, lib = altered()
        lib.fails_at = step
        with pytest.raises(MemoryError, match="could not"):
            provider.sign(SECRET, MESSAGE)
        assert set(lib.live.values()) <= {0}


@needs_library
def test_a_library_that_can_not_be_set_up_is_given_back_and_named() -> None:
    assert LIBCRYPTO is not None
    lib = Altered(LIBCRYPTO.lib)
    open_provider(attrs.evolve(LIBCRYPTO, lib=lib))
    # The last call is the comparison, of a signature that is wrong anyway.
    for step in range(len(lib.calls) - 1):
        lib = Altered(LIBCRYPTO.lib)
        lib.fails_at = step
        with pytest.raises(LibraryMissing, match=r"default provider|without SM2|SM2 with SM3"):
            open_provider(attrs.evolve(LIBCRYPTO, lib=lib))
        assert set(lib.live.values()) <= {0}


@needs_library
@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0x20000000, b"LibreSSL 3.9.2"),
        (0x1010117F, b"OpenSSL 1.1.1w  11 Sep 2023"),
        (0x30000000, b"Other 3.0"),
    ],
)
def test_an_old_or_foreign_library_is_refused_by_its_name(number: int, text: bytes) -> None:
    assert LIBCRYPTO is not None
    held = LIBCRYPTO.ffi.new("char[]", text)
    lib = Altered(LIBCRYPTO.lib, OpenSSL_version_num=lambda: number, OpenSSL_version=lambda _: held)
    with pytest.raises(LibraryMissing, match=text.split()[0].decode()):
        libcrypto._examine(LIBCRYPTO.ffi, lib, "libcrypto.so.3")


@needs_library
def test_the_queue_of_errors_is_left_empty_and_what_others_left_in_it_does_no_harm() -> None:
    assert LIBCRYPTO is not None
    lib, null = LIBCRYPTO.lib, LIBCRYPTO.ffi.NULL
    public_key = PORTABLE.public_key(SECRET)
    for signature, right in ((SIGNATURE, True), (SIGNATURE[::-1], False)):
        assert lib.EVP_PKEY_CTX_new_from_name(null, b"no such algorithm", null) == null
        assert lib.ERR_peek_error() != 0
        assert native()._verdict(public_key, MESSAGE, _der_of(signature)) is right
        assert lib.ERR_peek_error() == 0
    native().sign(SECRET, MESSAGE)
    assert lib.ERR_peek_error() == 0


def _der_of(signature: bytes) -> bytes:
    return to_der(int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))


@needs_library
def test_eight_threads_at_once_get_right_answers_and_threads_come_and_go() -> None:
    signatures = [native().sign(secret, DIGEST) for secret in SECRETS]

    def work(seed: int) -> int:
        chance = random.Random(seed)
        wrong = 0
        for _ in range(40):
            key, signed = chance.randrange(4), chance.randrange(4)
            wrong += native().verify(KEYS[key], DIGEST, signatures[signed]) is not (key == signed)
            if chance.random() < 0.2:
                fresh = native().sign(SECRETS[key], DIGEST)
                wrong += not native().verify(KEYS[key], DIGEST, fresh)
        return wrong

    for first in (0, 8):
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(work, range(first, first + 8))) == 0


@needs_library
@needs.fork
def test_a_forked_child_verifies_and_draws_other_nonces_than_its_parent() -> None:
    code = (
        "import os, sys\n"
        "from tests.crypto.sm2_cases import NATIVE, SECRET\n"
        "NATIVE.sign(SECRET, b'warm')\n"
        "ours, theirs = os.pipe()\n"
        "child = os.fork()\n"
        "signature = NATIVE.sign(SECRET, b'm')\n"
        "assert NATIVE.verify(NATIVE.public_key(SECRET), b'm', signature)\n"
        "if child == 0:\n"
        "    os.write(theirs, signature)\n"
        "    os._exit(0)\n"
        "_, status = os.waitpid(child, 0)\n"
        "assert status == 0, status\n"
        "other = os.read(ours, 64)\n"
        "assert len(other) == 64 and other != signature\n"
        "assert NATIVE.verify(NATIVE.public_key(SECRET), b'm', other)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=240)


@needs_library
def test_a_process_that_ends_while_threads_verify_ends_well() -> None:
    code = (
        "import threading\n"
        "from tests.crypto.sm2_cases import NATIVE, SECRET, MESSAGE, SIGNATURE\n"
        "key = NATIVE.public_key(SECRET)\n"
        "started = threading.Barrier(5)\n"
        "def work():\n"
        "    started.wait()\n"
        "    while True: NATIVE.verify(key, MESSAGE, SIGNATURE)\n"
        "for _ in range(4): threading.Thread(target=work, daemon=True).start()\n"
        "started.wait()\n"
        "for _ in range(20): NATIVE.verify(key, MESSAGE, SIGNATURE)\n"
    )
    root = Path(__file__).parents[2]
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=root, timeout=240)


def test_macos_never_opens_the_library_that_ends_the_process_nor_windows_one_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    for folder, name in (
        ("lib", "libcrypto.dylib"),
        ("lib", "libcrypto.3.dylib"),
        ("DLLs", "libcrypto-3.dll"),
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).touch()
    mac = list(libcrypto._candidates("darwin"))
    assert mac[0] == str(tmp_path / "lib" / "libcrypto.3.dylib")
    assert all(Path(name).is_absolute() and not name.endswith("libcrypto.dylib") for name in mac)
    assert list(libcrypto._candidates("win32")) == [str(tmp_path / "DLLs" / "libcrypto-3.dll")]


@given(st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1))
def test_a_signature_has_one_der_form_and_comes_back_from_it(r: int, s: int) -> None:
    der = to_der(r, s)
    assert from_der(der) == r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert len(der) <= 72
    # Each other form of the same numbers is refused: a padded number, a long length, a tail.
    padded = b"\x30" + bytes((der[1] + 1,)) + b"\x02" + bytes((der[3] + 1,)) + b"\0" + der[4:]
    for other in (padded, b"\x30\x81" + der[1:], der + b"\0"):
        with pytest.raises((AssertionError, IndexError)):
            from_der(other)
