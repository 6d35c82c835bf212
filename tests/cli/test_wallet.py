"""The wallet signs one transaction for one nonce, whatever happens between."""

import threading
from pathlib import Path

import attrs
import pytest
from nacl.signing import SigningKey

from supervm.client.build import body_of
from supervm.client.wallet import Equivocation, Signed, Wallet
from supervm.types.address import Suite, address_of
from supervm.types.operations import Output, Transfer
from supervm.types.state import NATIVE_TOKEN
from supervm.types.transaction import Body, Transaction


@attrs.frozen
class Key:
    secret: SigningKey = attrs.field(factory=lambda: SigningKey(b"\x07" * 32))
    suite: int = Suite.ED25519

    @property
    def public_key(self) -> bytes:
        return self.secret.verify_key.encode()

    @property
    def address(self) -> bytes:
        return address_of(self.suite, self.public_key)

    def sign(self, message: bytes) -> bytes:
        return self.secret.sign(message).signature


KEY = Key()


def body(amount: int, nonce: int = 0, chain: bytes = b"\x01" * 32) -> Body:
    transfer = Transfer(NATIVE_TOKEN, (Output(b"\x02" * 32, amount),))
    return body_of(
        [transfer], chain_id=chain, sender=KEY.address, suite=KEY.suite, nonce=nonce, base_price=10_000
    )


def test_the_same_body_again_gives_the_bytes_that_were_signed_first(tmp_path: Path) -> None:
    first = Wallet(tmp_path).sign(body(5), KEY)
    again = Wallet(tmp_path).sign(body(5), KEY)
    assert again.transaction.data == first.transaction.data
    assert Transaction.decode(first.path.read_bytes()) == first.transaction


def test_another_transaction_for_the_same_nonce_is_refused_and_says_why(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path)
    first = wallet.sign(body(5), KEY)
    with pytest.raises(Equivocation, match="a builder may have it") as caught:
        wallet.sign(body(6), KEY)
    assert caught.value.first.transaction == first.transaction
    assert f"0x{first.transaction.digest.hex()}" in str(caught.value)
    assert "nonce 0" in str(caught.value)


def test_another_nonce_and_another_chain_are_free(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path)
    wallet.sign(body(5), KEY)
    wallet.sign(body(6, nonce=1), KEY)
    wallet.sign(body(6, chain=b"\x09" * 32), KEY)
    assert [each.nonce for each in wallet.recorded(b"\x01" * 32, KEY.address)] == [0, 1]
    assert wallet.find(b"\x01" * 32, KEY.address, 7) is None


def test_two_signers_at_once_end_up_with_one_transaction(tmp_path: Path) -> None:
    signed: list[Signed] = []
    refused: list[Equivocation] = []
    start = threading.Barrier(8)

    def sign(amount: int) -> None:
        start.wait()
        try:
            signed.append(Wallet(tmp_path).sign(body(amount), KEY))
        except Equivocation as error:
            refused.append(error)

    threads = [threading.Thread(target=sign, args=(amount,)) for amount in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(signed) == 1
    assert len(refused) == 7
    assert {error.first.transaction.digest for error in refused} == {signed[0].transaction.digest}
    assert not list(tmp_path.rglob(".*"))


def test_a_transaction_that_its_only_node_refused_frees_its_nonce(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path)
    signed = wallet.sign(body(5), KEY)
    assert wallet.sending(signed) == signed.transaction.data
    assert wallet.release(signed)
    assert wallet.sign(body(6), KEY).sends == 0


def test_a_transaction_that_was_sent_twice_keeps_its_nonce_for_ever(tmp_path: Path) -> None:
    wallet = Wallet(tmp_path)
    signed = wallet.sign(body(5), KEY)
    wallet.sending(signed)
    wallet.sending(signed)
    assert not wallet.release(signed)
    assert wallet.sign(body(5), KEY).sends == 2
    with pytest.raises(Equivocation):
        wallet.sign(body(6), KEY)


def test_nobody_else_can_read_what_was_signed(tmp_path: Path) -> None:
    signed = Wallet(tmp_path / "wallet").sign(body(5), KEY)
    assert signed.path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "wallet").stat().st_mode & 0o077 == 0
