"""One signed transaction for one nonce, for ever: the wallet's durable memory.

A second signed transaction for a nonce is an equivocation once a builder may have the first: it could be
certified in either's place, and the sender's nonce be locked until the epoch ends. So the exact bytes are
on disk, fsynced, before they leave; a retry sends the same bytes; another body for the nonce is refused.

Layout: `FOLDER/CHAIN-ID/ADDRESS/NONCE.tx` holds the bytes, `NONCE.sent` one byte for each time they were
about to be sent. Records are made with link(2), so two processes can't both sign one nonce.
"""

import os
import secrets
from pathlib import Path

import attrs

from supervm.types.transaction import Body, Signer, Transaction, build


class WalletError(Exception):
    """The wallet won't do it. `value` is what was asked, `mend` what to do instead."""

    def __init__(self, message: str, value: str = "", mend: str = "") -> None:
        self.value, self.mend = value, mend
        super().__init__(f"{message}: {value}" + (f"; {mend}" if mend else "") if value else message)


class Equivocation(WalletError):
    """Another transaction was signed for this nonce. `first` is its bytes' record."""

    def __init__(self, first: "Signed") -> None:
        self.first = first
        super().__init__(
            f"nonce {first.nonce} of 0x{first.address.hex()} has a signed transaction already",
            f"0x{first.transaction.digest.hex()}",
            "a builder may have it, so signing another would lock the account; "
            "send it again with 'supervm tx retry', then use the next nonce",
        )


@attrs.frozen(eq=False)
class Signed:
    """What was signed for a nonce, and how often it was about to be sent."""

    path: Path
    transaction: Transaction
    sends: int

    @property
    def address(self) -> bytes:
        return self.transaction.body.sender

    @property
    def nonce(self) -> int:
        return self.transaction.body.nonce


class Wallet:
    """The records of one folder. Every method is safe against crashes and other processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sign(self, body: Body, signer: Signer) -> Signed:
        """The signed transaction for `body`, recorded durably before it is returned.

        The same body again gives the bytes signed first. Raises Equivocation when its nonce has another.
        """
        folder = self._folder(body.chain_id, body.sender)
        if not folder.exists():
            for missing in (self.folder, folder.parent, folder):
                missing.mkdir(parents=True, exist_ok=True, mode=0o700)
                _sync_folder(missing.parent)
        path = folder / f"{body.nonce}.tx"
        if not path.exists():
            _create(path, build(body, [signer]).data)
        first = self._read(path)
        if first.transaction.body_bytes != body.encode():
            raise Equivocation(first)
        return first

    def recorded(self, chain_id: bytes, address: bytes) -> list[Signed]:
        """Every record of an account on a chain, by nonce."""
        paths = self._folder(chain_id, address).glob("*.tx")
        return [self._read(path) for path in sorted(paths, key=lambda path: int(path.stem))]

    def find(self, chain_id: bytes, address: bytes, nonce: int) -> Signed | None:
        """What was signed for a nonce, or None."""
        path = self._folder(chain_id, address) / f"{nonce}.tx"
        return self._read(path) if path.exists() else None

    def sending(self, signed: Signed) -> bytes:
        """The bytes to send now; that they are about to leave is durable before this returns."""
        path = signed.path.with_suffix(".sent")
        with path.open("ab") as file:
            file.write(b".")
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(path.parent)
        return signed.transaction.data

    def release(self, signed: Signed) -> bool:
        """Forget a record after the only node that was ever given the bytes has refused them.

        True when it is forgotten, so that the nonce is free. False when the bytes were sent more than
        once: an earlier try may have reached a builder.
        """
        sent = signed.path.with_suffix(".sent")
        if sent.exists() and sent.stat().st_size != 1:
            return False
        signed.path.unlink()
        sent.unlink(missing_ok=True)
        _sync_folder(signed.path.parent)
        return True

    def _folder(self, chain_id: bytes, address: bytes) -> Path:
        return self.folder / chain_id.hex() / address.hex()

    def _read(self, path: Path) -> Signed:
        sent = path.with_suffix(".sent")
        transaction = Transaction.decode(path.read_bytes())
        assert path.stem == str(transaction.body.nonce), f"{path} holds nonce {transaction.body.nonce}"
        return Signed(path, transaction, sent.stat().st_size if sent.exists() else 0)


def _create(path: Path, data: bytes) -> None:
    """Put `data` at `path` durably and whole, unless something is there already."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            # Another process was first; its record stands and the caller compares.
            return
        _sync_folder(path.parent)
    finally:
        draft.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
