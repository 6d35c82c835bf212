"""Makes docs/reference/vectors.json: one known answer for every format.

`python -m tests.types.encoding_vectors` rewrites the file; the test beside this compares it with the
code. A change in it is a change of the chain's formats.
"""

import json
from pathlib import Path
from typing import Any

import attrs

from supervm.crypto.keys import KeyPair
from supervm.crypto.sm2 import Sm2
from supervm.crypto.votes import sign_batch, sign_vote
from supervm.types import digests, merkle, smt
from supervm.types.batch import Batch, batch_header
from supervm.types.block import Block, BlockBody, BlockHeader
from supervm.types.certificate import BatchCertificate, Certificate, VoteKind, bitmap_of, vote_message
from supervm.types.codec import pack_transactions
from supervm.types.genesis import Genesis, GenesisGas, GenesisToken, genesis_block, genesis_state
from supervm.types.genesis_json import dump_genesis
from supervm.types.operations import (
    Burn,
    Mint,
    ObjectCreate,
    ObjectDelete,
    ObjectFreeze,
    ObjectMutate,
    ObjectShare,
    ObjectTransfer,
    Operation,
    Output,
    TokenCreate,
    Transfer,
    encode_operations,
)
from supervm.types.receipt import Event, ObjectVersion, Receipt, Status
from supervm.types.state import (
    NATIVE_TOKEN,
    Account,
    Object,
    OwnerKind,
    Token,
    account_key,
    balance_key,
    encode_balance,
    object_id,
    object_key,
    shared_owner,
    system_key,
    token_id,
    token_key,
)
from supervm.types.transaction import (
    Access,
    Authorization,
    Body,
    Input,
    Lane,
    Transaction,
    encode_transaction,
    signing_digest,
)
from supervm.types.validators import Validator, ValidatorSet

PATH = Path(__file__).parents[2] / "docs" / "reference" / "vectors.json"

ALICE = KeyPair(1, bytes(range(32)))
BOB = KeyPair(2, bytes(range(32, 64)))
CAROL = KeyPair(3, bytes.fromhex("3945208f7b2144b13f36e38ac6d39f95889393692860b51a42fb81ef4df7c5b8"))
SM2_NONCE = bytes.fromhex("59276e27d506861a16680f3ad9c02dccef3cc1fa3cdbe4ce6d54b80deac1bc21")

OBJECT_ID = bytes(range(64, 96))
OTHER_ID = bytes(range(96, 128))
TOKEN_ID = bytes(range(128, 160))

Json = dict[str, Any]


def hexed(data: bytes) -> str:
    return f"0x{data.hex()}"


def genesis() -> Genesis:
    return Genesis(
        name="vectors",
        created_ms=1_700_000_000_000,
        development=True,
        validators=ValidatorSet((Validator(ALICE.node_id, ALICE.public_key, 1),)),
        accounts=tuple(sorted(((ALICE.address, 10**18), (BOB.address, 5 * 10**9)))),
        tokens=(
            GenesisToken(
                id=TOKEN_ID,
                symbol=b"GOLD",
                decimals=2,
                minter=ALICE.address,
                fixed=False,
                balances=((BOB.address, 700),),
            ),
        ),
        gas=GenesisGas(component="flat", parameters=(("collector", ""), ("price", "10000"))),
    )


def make_vectors() -> Json:
    """Return all vectors: bytes as 0x hex, u64 and u128 as decimal strings."""
    chain_id = genesis().chain_id
    return {
        "keys": [key_vector(key) for key in (ALICE, BOB, CAROL)],
        "genesis": genesis_vector(),
        "operations": [operation_vector(each) for each in every_operation()],
        "transactions": [transaction_vector(*each) for each in every_transaction(chain_id)],
        "stream": stream_vector(chain_id),
        "ids": ids_vector(chain_id),
        "state": state_vectors(),
        "state_tree": tree_vector(),
        "merkle": merkle_vector(),
        "receipt": receipt_vector(chain_id),
        "validators": validators_vector(),
        "batch": batch_vector(chain_id),
        "block": block_vector(chain_id),
        "refused": [
            {"why": why, "bytes": hexed(data)} for why, data in refused_transactions(chain_id).items()
        ],
    }


def key_vector(key: KeyPair) -> Json:
    return {
        "suite": key.suite,
        "name": key.suite_name,
        "secret": hexed(key.secret),
        "public_key": hexed(key.public_key),
        "address": hexed(key.address),
        "node_id": hexed(key.node_id),
    }


def genesis_vector() -> Json:
    first = genesis()
    state = genesis_state(first)
    root = smt.root_of(state)
    return {
        "file": json.loads(dump_genesis(first)),
        "encoding": hexed(first.encode()),
        "chain_id": hexed(first.chain_id),
        "state": {hexed(key): hexed(value) for key, value in sorted(state.items())},
        "state_root": hexed(root),
        "header": hexed(genesis_block(first, root, base_price=10_000).header.encode()),
    }


def every_operation() -> tuple[Operation, ...]:
    return (
        Transfer(NATIVE_TOKEN, (Output(BOB.address, 1_000_000_000), Output(CAROL.address, 0))),
        TokenCreate(b"SILVER2", 6, 2**128 - 1, True),
        Mint(TOKEN_ID, BOB.address, 5),
        Burn(TOKEN_ID, 258),
        ObjectCreate(7, OwnerKind.OWNED, ALICE.address, b"data"),
        ObjectMutate(OBJECT_ID, b"new data"),
        ObjectTransfer(OBJECT_ID, BOB.address),
        ObjectShare(OBJECT_ID),
        ObjectFreeze(OBJECT_ID),
        ObjectDelete(OBJECT_ID),
    )


def operation_vector(operation: Operation) -> Json:
    fields = {name: shown(value) for name, value in attrs.asdict(operation, recurse=False).items()}
    return {
        "name": type(operation).__name__,
        "tag": operation.TAG,
        "fields": fields,
        "payload": hexed(encode_operations([operation])),
    }


def shown(value: object) -> object:
    """Return a field as JSON: numbers as decimal strings, bytes as hex, outputs as objects."""
    if isinstance(value, bytes):
        return hexed(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, tuple):
        return [shown(each) for each in value]
    return {name: shown(each) for name, each in attrs.asdict(value, recurse=False).items()}  # type: ignore[arg-type]


def transfer_body(chain_id: bytes, sender: KeyPair, **changes: Any) -> Body:
    fields: Json = {
        "chain_id": chain_id,
        "sender": sender.address,
        "nonce": 3,
        "gas_limit": 30_000,
        "max_price": 10_000,
        "payload": encode_operations([Transfer(NATIVE_TOKEN, (Output(BOB.address, 1_000_000_000),))]),
    }
    return Body(**(fields | changes))


def every_transaction(chain_id: bytes) -> list[tuple[str, Body, tuple[KeyPair, ...]]]:
    """(name, body, signers)."""
    inputs = (Input(OBJECT_ID, 4, Access.WRITE), Input(OTHER_ID, 1, Access.READ))
    everything = encode_operations([ObjectMutate(OBJECT_ID, b"new data"), *every_operation()[:4]])
    return [
        ("a transfer, ed25519", transfer_body(chain_id, ALICE), (ALICE,)),
        ("a transfer, secp256k1", transfer_body(chain_id, BOB), (BOB,)),
        ("a transfer, sm2", transfer_body(chain_id, CAROL), (CAROL,)),
        (
            "every field, sponsored",
            transfer_body(
                chain_id,
                ALICE,
                fee_payer=BOB.address,
                sponsor_nonce=9,
                nonce=2**40,
                expiry_epoch=12,
                lane=Lane.ORDERED,
                tip_price=1,
                gas_token=TOKEN_ID,
                max_fee=2**70,
                relays=(ALICE.node_id, BOB.node_id),
                inputs=inputs,
                payload=everything,
            ),
            (ALICE, BOB),
        ),
    ]


def authorize(body_bytes: bytes, key: KeyPair) -> Authorization:
    """Sign; sm2 with a fixed nonce, so that the vector is the same each time."""
    message = signing_digest(body_bytes)
    if key.suite == CAROL.suite:
        signature = Sm2(nonces=lambda size: SM2_NONCE).sign(key.secret, message)
    else:
        signature = key.sign(message)
    return Authorization(key.suite, key.public_key, signature)


def transaction_bytes(body: Body, signers: tuple[KeyPair, ...]) -> bytes:
    body_bytes = body.encode()
    return encode_transaction(body_bytes, [authorize(body_bytes, key) for key in signers])


def transaction_vector(name: str, body: Body, signers: tuple[KeyPair, ...]) -> Json:
    transaction = Transaction.decode(transaction_bytes(body, signers))
    fields = {field: shown(value) for field, value in attrs.asdict(body, recurse=False).items()}
    return {
        "name": name,
        "fields": fields,
        "body": hexed(transaction.body_bytes),
        "digest": hexed(transaction.digest),
        "authorizations": [
            {
                "suite": each.suite,
                "public_key": hexed(each.public_key),
                "signature": hexed(each.signature),
            }
            for each in transaction.authorizations
        ],
        "transaction": hexed(transaction.data),
    }


def stream_vector(chain_id: bytes) -> Json:
    items = [transaction_bytes(body, signers) for _, body, signers in every_transaction(chain_id)[:2]]
    return {"transactions": [hexed(item) for item in items], "stream": hexed(pack_transactions(items))}


def ids_vector(chain_id: bytes) -> Json:
    digest = Transaction.decode(transaction_bytes(*every_transaction(chain_id)[0][1:])).digest
    return {
        "transaction_digest": hexed(digest),
        "token_of_operation_1": hexed(token_id(digest, 1)),
        "object_of_output_0": hexed(object_id(digest, 0)),
        "object_of_output_1": hexed(object_id(digest, 1)),
    }


def first_state() -> dict[bytes, bytes]:
    return {
        account_key(ALICE.address): Account(4, 1, 10**18).encode(),
        account_key(BOB.address): Account(0, 0, 5).encode(),
        balance_key(BOB.address, TOKEN_ID): encode_balance(700),
        token_key(TOKEN_ID): Token(b"GOLD", 2, ALICE.address, False, 700).encode(),
        object_key(OBJECT_ID): Object(5, OwnerKind.OWNED, ALICE.address, 7, False, b"data").encode(),
        system_key(b"gas"): b"\x01",
    }


def state_vectors() -> list[Json]:
    named = {
        "an account": (account_key(ALICE.address), Account(4, 1, 10**18).encode()),
        "a balance": (balance_key(BOB.address, TOKEN_ID), encode_balance(700)),
        "a token": (token_key(TOKEN_ID), Token(b"GOLD", 2, ALICE.address, False, 700).encode()),
        "an owned object": (
            object_key(OBJECT_ID),
            Object(5, OwnerKind.OWNED, ALICE.address, 7, False, b"data").encode(),
        ),
        "a shared object": (
            object_key(OBJECT_ID),
            Object(9, OwnerKind.SHARED, shared_owner(5), 7, False, b"data").encode(),
        ),
        "an immutable object": (
            object_key(OBJECT_ID),
            Object(5, OwnerKind.IMMUTABLE, bytes(32), 7, False, b"data").encode(),
        ),
        "a deleted object": (
            object_key(OBJECT_ID),
            Object(6, OwnerKind.OWNED, ALICE.address, 7, True, b"").encode(),
        ),
        "a system value's key": (system_key(b"gas"), b""),
    }
    return [{"name": name, "key": hexed(key), "value": hexed(value)} for name, (key, value) in named.items()]


def tree_vector() -> Json:
    state = first_state()
    proofs = [("present", account_key(ALICE.address), smt.prove(state, account_key(ALICE.address)))]
    wanted = {"absent: another leaf stands there": True, "absent: the slot is empty": False}
    for name, by_other in wanted.items():
        # The first absent account, by a counted address, whose proof is of this form.
        for number in range(10_000):
            key = account_key(number.to_bytes(32, "big"))
            proof = smt.prove(state, key)
            if (proof.other is not None) is by_other:
                proofs.append((name, key, proof))
                break
    return {
        "state": {hexed(key): hexed(value) for key, value in sorted(state.items())},
        "root": hexed(smt.root_of(state)),
        "proofs": [
            {
                "name": name,
                "key": hexed(key),
                "value": None if proof.value is None else hexed(proof.value),
                "depth": len(proof.siblings),
                "proof": hexed(proof.encode()),
            }
            for name, key, proof in proofs
        ],
    }


def merkle_vector() -> Json:
    items = [b"zero", b"one", b"two", b"three", b"four"]
    return {
        "items": [hexed(item) for item in items],
        "root": hexed(merkle.root(items)),
        "path_of_item_3": [hexed(each) for each in merkle.path(items, 3)],
        "path_of_item_4": [hexed(each) for each in merkle.path(items, 4)],
    }


def receipt_vector(chain_id: bytes) -> Json:
    digest = Transaction.decode(transaction_bytes(*every_transaction(chain_id)[0][1:])).digest
    receipt = Receipt(
        digest=digest,
        lane=Lane.FAST,
        status=Status.COMMITTED,
        gas_used=15_100,
        fee=151,
        gas_token=NATIVE_TOKEN,
        created=(ObjectVersion(object_id(digest, 0), 1),),
        written=(ObjectVersion(OBJECT_ID, 5),),
        deleted=(),
        events=(Event(TOKEN_ID, b"minted", b"\x05"),),
        return_value=b"",
        height=12,
        index=3,
    )
    failed = attrs.evolve(receipt, status=Status.FAILED, code="InsufficientFunds", created=(), events=())
    return {
        "committed": hexed(receipt.encode()),
        "effects_digest": hexed(receipt.effects_digest()),
        "failed": hexed(failed.encode()),
        "receipts_root": hexed(merkle.root([receipt.encode(), failed.encode()])),
    }


def validators_vector() -> Json:
    members = tuple(
        sorted(
            (Validator(key.node_id, ALICE.public_key, weight) for key, weight in ((ALICE, 1), (BOB, 2))),
            key=_id,
        )
    )
    found = ValidatorSet(members)
    return {"encoding": hexed(found.encode()), "digest": hexed(found.digest())}


def _id(validator: Validator) -> bytes:
    return validator.node_id


def batch_of(chain_id: bytes) -> Batch:
    items = tuple(transaction_bytes(body, signers) for _, body, signers in every_transaction(chain_id)[:2])
    header = batch_header(
        chain_id=chain_id,
        epoch=0,
        builder=ALICE.node_id,
        sequence=1,
        transactions=items,
        gas=60_000,
    )
    return Batch(header, sign_batch(ALICE, header), items)


def certificate_of(batch: Batch) -> BatchCertificate:
    accept = sign_vote(ALICE, batch.header.chain_id, 0, VoteKind.ACCEPT, 0, batch.digest())
    return BatchCertificate(batch.header, batch.signature, bitmap_of([0], 1), (accept,))


def batch_vector(chain_id: bytes) -> Json:
    batch = batch_of(chain_id)
    return {
        "header": hexed(batch.header.encode()),
        "digest": hexed(batch.digest()),
        "vote_message": hexed(vote_message(chain_id, 0, VoteKind.BATCH, 0, batch.digest())),
        "batch": hexed(batch.encode()),
        "certificate": hexed(certificate_of(batch).encode()),
    }


def block_vector(chain_id: bytes) -> Json:
    batch = batch_of(chain_id)
    first = genesis()
    body = BlockBody(certificates=(certificate_of(batch),))
    header = BlockHeader(
        chain_id=chain_id,
        epoch=0,
        height=1,
        parent=genesis_block(first, smt.root_of(genesis_state(first)), base_price=10_000).digest(),
        proposer=ALICE.node_id,
        timestamp_ms=1_700_000_005_000,
        root_height=1,
        state_root=smt.root_of(first_state()),
        receipts_root=digests.ZERO,
        base_price=10_000,
        transactions_root=body.transactions_root(),
        body_digest=body.digest(),
        validators_digest=first.validators.digest(),
    )
    block = Block(header, body, (batch,))
    block.check()
    signature = sign_vote(ALICE, chain_id, 0, VoteKind.FINALIZE, 1, block.digest())
    finalisation = Certificate(VoteKind.FINALIZE, 0, 1, block.digest(), bitmap_of([0], 1), (signature,))
    return {
        "header": hexed(header.encode()),
        "digest": hexed(block.digest()),
        "body": hexed(body.encode()),
        "body_digest": hexed(body.digest()),
        "block": hexed(block.encode()),
        "finalisation": hexed(finalisation.encode()),
        "finalisation_message": hexed(finalisation.message(chain_id)),
    }


def refused_transactions(chain_id: bytes) -> dict[str, bytes]:
    """Near misses of the first transaction that every decoder must refuse."""
    body = transfer_body(chain_id, ALICE)
    good = transaction_bytes(body, (ALICE,))
    size = len(body.encode())
    unsorted = (Input(OTHER_ID, 1, Access.READ), Input(OBJECT_ID, 4, Access.READ))
    return {
        "one byte short": good[:-1],
        "one byte long": good + b"\x00",
        "format 2": b"\x02" + good[1:],
        "lane 4": good[:121] + b"\x04" + good[122:],
        "sponsor_nonce without a sponsor": transaction_bytes(attrs.evolve(body, sponsor_nonce=1), (ALICE,)),
        "inputs not ascending": transaction_bytes(attrs.evolve(body, inputs=unsorted), (ALICE,)),
        "an input twice": transaction_bytes(attrs.evolve(body, inputs=unsorted[:1] * 2), (ALICE,)),
        "no operations": transaction_bytes(attrs.evolve(body, payload=b"\x00\x00"), (ALICE,)),
        "operation tag 10": transaction_bytes(
            attrs.evolve(body, payload=b"\x01\x00\x0a" + bytes(32)), (ALICE,)
        ),
        "no authorization": good[:size] + b"\x00\x00",
        "two authorizations where one is due": transaction_bytes(body, (ALICE, ALICE)),
        "suite 4": good[: size + 2] + b"\x04" + good[size + 3 :],
        "a public key of 31 bytes": encode_transaction(
            body.encode(), [Authorization(1, ALICE.public_key[:31], bytes(64))]
        ),
        "a sender of zeros in lane AUTO": transaction_bytes(
            attrs.evolve(body, sender=bytes(32), fee_payer=bytes(32)), ()
        ),
    }


def dumped() -> str:
    return json.dumps(make_vectors(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(dumped())
