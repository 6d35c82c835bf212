"""Key files: one key in a small JSON file, encrypted under a passphrase or, for a node's own, plain.

Encryption is argon2id and XSalsa20-Poly1305 (libsodium's SecretBox). The cost parameters are in the file
and bounded, so that a hostile file can't take gigabytes or minutes. Files have mode 0600, appear whole or
not at all, and never replace another unless asked to. All calls block; use a thread.
"""

import errno
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import attrs
import nacl.exceptions
import nacl.pwhash.argon2id
import nacl.secret

from supervm.crypto.keys import KeyPair
from supervm.crypto.provider import RandomBytes
from supervm.crypto.suites import SUITE_NAMES
from supervm.types.address import Address, address_of, format_hex, parse_hex
from supervm.types.errors import InvalidInput

FILE_FORMAT = 1
FILE_KIND = "supervm-key"
FILE_BYTES_MAX = 16 * 1024
MODE = 0o600

OPERATIONS_DEFAULT = 3
OPERATIONS_MAX = 16
MEMORY_BYTES_DEFAULT = 64 * 1024 * 1024
MEMORY_BYTES_MAX = 256 * 1024 * 1024
MEMORY_BYTES_MIN = 8 * 1024
PASSPHRASE_BYTES_MAX = 1024

_NO_LINKS = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK})
_KDF = "argon2id"
_CIPHER = "xsalsa20-poly1305"
_FIELDS = {"kind", "format", "name", "suite", "public_key", "address", "secret"}
_PLAIN = {"key"}
_SEALED = {"kdf", "operations", "memory_bytes", "salt", "cipher", "box"}


class KeyFileError(InvalidInput):
    """A key file cannot be used as asked. The value is the file's path."""


class KeyFileMissing(KeyFileError):
    """There is no such file."""


class KeyFileExists(KeyFileError):
    """A file is there already and would be lost."""


class KeyFileMalformed(KeyFileError):
    """The file is not a key file, or contradicts itself."""


class KeyFileTooNew(KeyFileError):
    """A newer release wrote the file."""


class KeyFileExposed(KeyFileError):
    """Other users of the machine may read a key that is not encrypted."""


class WrongPassphrase(KeyFileError):
    """The passphrase does not open the file, or one is needed."""


@attrs.frozen(kw_only=True)
class KeyFacts:
    """What a key file tells without its passphrase."""

    path: Path
    name: str
    suite: int
    public_key: bytes
    address: Address
    encrypted: bool


def write_key_file(
    path: Path,
    key: KeyPair,
    passphrase: bytes | None,
    *,
    name: str = "",
    replace: bool = False,
    random_bytes: RandomBytes = os.urandom,
    operations: int = OPERATIONS_DEFAULT,
    memory_bytes: int = MEMORY_BYTES_DEFAULT,
) -> None:
    """Write a key, durably, before returning. `passphrase` None leaves it plain (a node's own identity).

    Raises `KeyFileExists` unless `replace`, `WrongPassphrase` for an empty or overlong one, and OSError
    as the system gives it. The folder must exist.
    """
    if passphrase is None:
        secret: dict[str, object] = {"key": format_hex(key.secret)}
    else:
        _check_passphrase(path, passphrase)
        salt = random_bytes(nacl.pwhash.argon2id.SALTBYTES)
        nonce = random_bytes(nacl.secret.SecretBox.NONCE_SIZE)
        box = nacl.secret.SecretBox(_derive(passphrase, salt, operations, memory_bytes))
        secret = {
            "kdf": _KDF,
            "operations": operations,
            "memory_bytes": memory_bytes,
            "salt": format_hex(salt),
            "cipher": _CIPHER,
            "box": format_hex(bytes(box.encrypt(key.secret, nonce))),
        }
    content = {
        "kind": FILE_KIND,
        "format": FILE_FORMAT,
        "name": name,
        "suite": key.suite_name,
        "public_key": format_hex(key.public_key),
        "address": format_hex(key.address),
        "secret": secret,
    }
    _write_atomically(path, (json.dumps(content, indent=2) + "\n").encode(), replace)


def read_key_file(path: Path, passphrase: bytes | None = None) -> KeyPair:
    """Return the key of a file; raises a `KeyFileError`. An encrypted file needs its passphrase."""
    facts, secret = _read(path)
    if not facts.encrypted:
        _check_private(path)
        raw = _hex(path, secret, "key")
    elif passphrase is None:
        raise WrongPassphrase("WrongPassphrase", "the key file is encrypted", path, "give its passphrase")
    else:
        _check_passphrase(path, passphrase)
        raw = _unseal(path, secret, passphrase)
    try:
        key = KeyPair(facts.suite, raw)
    except InvalidInput as error:
        raise _malformed(path, f"the secret is no {error.message}") from None
    if key.public_key != facts.public_key:
        raise _malformed(path, "the secret does not belong to the public key")
    return key


def read_key_facts(path: Path) -> KeyFacts:
    """Return what a key file tells without its passphrase; raises a `KeyFileError`."""
    facts, _ = _read(path)
    return facts


def _read(path: Path) -> tuple[KeyFacts, dict[str, Any]]:
    content = _load(path)
    if content.get("kind") != FILE_KIND:
        raise _malformed(path, f"its kind is not {FILE_KIND}")
    version = content.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _malformed(path, "its format is not a number")
    if version > FILE_FORMAT:
        mend = f"this release reads format {FILE_FORMAT}; use the release that wrote it"
        raise KeyFileTooNew("KeyFileTooNew", f"the key file has format {version}", path, mend)
    secret = content.get("secret")
    if set(content) != _FIELDS or not isinstance(secret, dict) or set(secret) not in (_PLAIN, _SEALED):
        raise _malformed(path, "it has not the fields of a key file")
    number = SUITE_NAMES.get(content["suite"]) if isinstance(content["suite"], str) else None
    if number is None:
        raise _malformed(path, "its suite is unknown")
    if not isinstance(content["name"], str):
        raise _malformed(path, "its name is not text")
    public_key = _hex(path, content, "public_key")
    try:
        address = address_of(number, public_key)
    except InvalidInput as error:
        raise _malformed(path, error.message) from None
    if address != _hex(path, content, "address"):
        raise _malformed(path, "the address does not belong to the public key")
    facts = KeyFacts(
        path=path,
        name=content["name"],
        suite=number,
        public_key=public_key,
        address=address,
        encrypted=set(secret) == _SEALED,
    )
    return facts, secret


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise KeyFileMissing("KeyFileMissing", "there is no such key file", path) from None
    except OSError as error:
        raise KeyFileError("KeyFileUnreadable", "cannot read the key file", path, str(error)) from None
    if len(data) > FILE_BYTES_MAX:
        raise _malformed(path, "it is too large")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise _malformed(path, "it is not JSON") from None
    if not isinstance(content, dict):
        raise _malformed(path, "it is not a JSON object")
    return content


def _unseal(path: Path, secret: dict[str, Any], passphrase: bytes) -> bytes:
    if secret["kdf"] != _KDF or secret["cipher"] != _CIPHER:
        raise _malformed(path, f"its encryption is not {_KDF} and {_CIPHER}")
    operations = _bounded(path, secret, "operations", 1, OPERATIONS_MAX)
    memory_bytes = _bounded(path, secret, "memory_bytes", MEMORY_BYTES_MIN, MEMORY_BYTES_MAX)
    salt, box = _hex(path, secret, "salt"), _hex(path, secret, "box")
    if len(salt) != nacl.pwhash.argon2id.SALTBYTES:
        raise _malformed(path, "its salt has the wrong length")
    if len(box) < nacl.secret.SecretBox.NONCE_SIZE + nacl.secret.SecretBox.MACBYTES:
        raise _malformed(path, "its box is too short")
    try:
        opened = nacl.secret.SecretBox(_derive(passphrase, salt, operations, memory_bytes)).decrypt(box)
    except nacl.exceptions.CryptoError:
        mend = "check the passphrase; if it is right, the file was changed"
        raise WrongPassphrase(
            "WrongPassphrase", "the passphrase does not open the file", path, mend
        ) from None
    return opened


def _derive(passphrase: bytes, salt: bytes, operations: int, memory_bytes: int) -> bytes:
    return nacl.pwhash.argon2id.kdf(
        nacl.secret.SecretBox.KEY_SIZE, passphrase, salt, opslimit=operations, memlimit=memory_bytes
    )


def _check_passphrase(path: Path, passphrase: bytes) -> None:
    if not 1 <= len(passphrase) <= PASSPHRASE_BYTES_MAX:
        mend = f"1 to {PASSPHRASE_BYTES_MAX} bytes"
        raise WrongPassphrase("WrongPassphrase", "the passphrase's length is out of range", path, mend)


def _check_private(path: Path) -> None:
    # Windows has no such mode bits; the folder's own rights protect the file there.
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise KeyFileExposed("KeyFileExposed", "others may read this plain key", path, f"chmod 600 {path}")


def _hex(path: Path, content: dict[str, Any], field: str) -> bytes:
    try:
        return parse_hex(content[field], field)
    except InvalidInput:
        raise _malformed(path, f"its {field} is not hex") from None


def _bounded(path: Path, content: dict[str, Any], field: str, minimum: int, maximum: int) -> int:
    value = content[field]
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= maximum:
        raise _malformed(path, f"its {field} is not within {minimum} to {maximum}")
    return value


def _exists(path: Path) -> KeyFileExists:
    mend = "choose another name, or remove it yourself"
    return KeyFileExists("KeyFileExists", "a file is there already", path, mend)


def _malformed(path: Path, why: str) -> KeyFileMalformed:
    mend = "restore it from a backup, or name another file"
    return KeyFileMalformed("KeyFileMalformed", f"not a usable key file: {why}", path, mend)


def _write_atomically(path: Path, data: bytes, replace: bool) -> None:
    """Write a new file of mode 0600 beside `path`, make it durable, then give it its name."""
    # mkstemp makes the file 0600 from the start, whatever the umask.
    descriptor, temporary_name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(temporary_name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            _place_new(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _place_new(temporary: Path, path: Path) -> None:
    try:
        # A link fails where the name is taken, so that no race loses a key.
        path.hardlink_to(temporary)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _take_name(path)
        temporary.replace(path)


def _take_name(path: Path) -> None:
    """Where the file system has no links (FAT, Android): take the name, for the rename to replace."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, MODE))
    except FileExistsError:
        raise _exists(path) from None


def _sync_folder(folder: Path) -> None:
    # Windows opens no folders; its rename is durable with the file.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
