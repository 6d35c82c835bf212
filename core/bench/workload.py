"""A Bitcoin block as work for a ledger: who is funded, and what is signed.

Every output script is an account, and every transaction's first input is one, named by its outpoint.
A transaction becomes one signed transfer of the token `SAT` from its first input's account, paying each
output's value to the account of its script; the coinbase pays from the account of its null outpoint. The
values of spent outputs aren't in a block, so genesis gives each spender exactly what it will pay. An
input's account that never pays would hold nothing, and so has no entry. Fees are paid in the native
token, from an equal float on each spender.

Keys are derived from the names of accounts, so every run signs the same bytes.
"""

from collections.abc import Callable

import attrs
from blake3 import blake3

from supervm.bench.bitcoin import BitcoinBlock, Payment
from supervm.client.build import body_of
from supervm.crypto.keys import KeyPair
from supervm.types.address import Suite
from supervm.types.genesis import Genesis, GenesisGas, GenesisToken
from supervm.types.operations import Output, Transfer
from supervm.types.transaction import build
from supervm.types.validators import ValidatorSet

SCRIPT_SEED = b"supervm/bench/replay/script"
OUTPOINT_SEED = b"supervm/bench/replay/outpoint"
SAT_TOKEN = blake3(b"supervm/bench/replay/SAT").digest()
"""The id of the token that stands for satoshi."""
NATIVE_FLOAT = 10**9
"""Native base units on each spender, for fees."""
PRICE = 10_000
"""The gas price of the chain's `flat` policy, micro base units per gas."""


@attrs.frozen
class Workload:
    """What is replayed: a block, with the key of each of its spenders in block order."""

    block: BitcoinBlock
    spenders: tuple[KeyPair, ...]


def workload_of(block: BitcoinBlock) -> Workload:
    """Derive the spenders' keys."""
    return Workload(block, tuple(account_key(OUTPOINT_SEED, each.inputs[0]) for each in block.payments))


def account_key(domain: bytes, name: bytes) -> KeyPair:
    """The key of a named account: ed25519 with the seed blake3(domain || name)."""
    return KeyPair(Suite.ED25519, blake3(domain + name).digest())


def genesis_of(workload: Workload, validators: ValidatorSet) -> Genesis:
    """A chain on which every payment of the block is covered, to the satoshi."""
    spends = {
        key.address: payment.total
        for key, payment in zip(workload.spenders, workload.block.payments, strict=True)
    }
    assert len(spends) == len(workload.spenders), "no outpoint is spent twice in a block"
    token = GenesisToken(
        id=SAT_TOKEN,
        symbol=b"SAT",
        decimals=8,
        minter=bytes(32),
        fixed=True,
        balances=tuple(sorted((address, amount) for address, amount in spends.items() if amount)),
    )
    return Genesis(
        name="bitcoin-replay",
        created_ms=workload.block.time_s * 1000,
        development=True,
        validators=validators,
        accounts=tuple((address, NATIVE_FLOAT) for address in sorted(spends)),
        tokens=(token,),
        gas=GenesisGas(component="flat", parameters=(("price", str(PRICE)),)),
    )


def sign_all(
    workload: Workload, chain_id: bytes, progress: Callable[[int], object] = lambda _: None
) -> list[bytes]:
    """The canonical bytes of every transaction, in block order. `progress` is told of each one done.

    Raises InvalidInput for a payment to more outputs than a transaction may have (256).
    """
    recipients: dict[bytes, bytes] = {}
    signed = []
    for key, payment in zip(workload.spenders, workload.block.payments, strict=True):
        signed.append(_sign(key, payment, chain_id, recipients))
        progress(1)
    return signed


def _sign(key: KeyPair, payment: Payment, chain_id: bytes, recipients: dict[bytes, bytes]) -> bytes:
    outputs = tuple(Output(_recipient(output.script, recipients), output.value) for output in payment.outputs)
    body = body_of(
        [Transfer(SAT_TOKEN, outputs)],
        chain_id=chain_id,
        sender=key.address,
        suite=key.suite,
        nonce=0,
        base_price=PRICE,
    )
    return build(body, [key]).data


def _recipient(script: bytes, known: dict[bytes, bytes]) -> bytes:
    address = known.get(script)
    if address is None:
        address = known[script] = account_key(SCRIPT_SEED, script).address
    return address
