"""Genesis: the chain's id, its first state, and a strict file that names every mistake."""

import json
from typing import Any

import attrs
import pytest

from supervm.types import digests, smt
from supervm.types.errors import InvalidInput
from supervm.types.genesis import Genesis, GenesisToken, genesis_block, genesis_state
from supervm.types.genesis_json import dump_genesis, load_genesis
from supervm.types.state import (
    NATIVE_TOKEN,
    Account,
    Token,
    account_key,
    balance_key,
    decode_balance,
    token_key,
)
from supervm.types.validators import Validator, ValidatorSet

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32

GENESIS = Genesis(
    name="test",
    created_ms=1_700_000_000_000,
    validators=ValidatorSet((Validator(A, B, 1),)),
    accounts=((A, 10), (B, 2**100)),
    tokens=(GenesisToken(id=C, symbol=b"GOLD", decimals=2, minter=A, fixed=False, balances=((B, 7),)),),
)


def content(**changes: object) -> dict[str, Any]:
    return json.loads(dump_genesis(GENESIS)) | changes


def refusal(data: object) -> InvalidInput:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(InvalidInput) as caught:
        load_genesis(raw)
    return caught.value


def test_the_chain_id_is_the_digest_of_the_encoding_and_changes_with_any_field() -> None:
    assert GENESIS.chain_id == digests.digest(b"supervm/genesis/v1", GENESIS.encode())
    changed = [
        attrs.evolve(GENESIS, name="test2"),
        attrs.evolve(GENESIS, created_ms=1),
        attrs.evolve(GENESIS, development=True),
        attrs.evolve(GENESIS, accounts=((A, 11), (B, 2**100))),
        attrs.evolve(GENESIS, limits=attrs.evolve(GENESIS.limits, inputs_max=1)),
    ]
    assert len({GENESIS.chain_id, *(each.chain_id for each in changed)}) == 6


def test_the_first_state_holds_every_balance_and_each_token_with_its_supply() -> None:
    state = genesis_state(GENESIS)
    assert Account.decode(state[account_key(B)]) == Account(0, 0, 2**100)
    assert decode_balance(state[balance_key(B, C)]) == 7
    assert Token.decode(state[token_key(C)]).supply == 7
    native = Token.decode(state[token_key(NATIVE_TOKEN)])
    assert (native.symbol, native.decimals, native.supply) == (b"SVM", 9, 2**100 + 10)
    assert len(state) == 5


def test_block_zero_names_the_chain_the_set_and_the_root() -> None:
    root = smt.root_of(genesis_state(GENESIS))
    block = genesis_block(GENESIS, root, base_price=3)
    block.check()
    header = block.header
    assert (header.height, header.epoch, header.root_height, header.base_price) == (0, 0, 0, 3)
    assert header.chain_id == GENESIS.chain_id
    assert header.state_root == root
    assert header.validators_digest == GENESIS.validators.digest()


def test_a_file_is_read_whatever_the_order_of_its_lists() -> None:
    data = content()
    data["accounts"].reverse()
    assert load_genesis(json.dumps(data).encode()) == GENESIS


def test_absent_optional_fields_take_their_defaults() -> None:
    data = content()
    for name in ("tokens", "gas", "limits", "native", "state_tree", "development", "epoch_blocks"):
        del data[name]
    loaded = load_genesis(json.dumps(data).encode())
    assert loaded == attrs.evolve(GENESIS, tokens=())


def test_an_unknown_key_is_refused_with_the_nearest_right_one() -> None:
    error = refusal(content(epoch_block="5"))
    assert (error.code, error.value) == ("UnknownKey", "epoch_block")
    assert "epoch_blocks" in error.mend
    nested = content()
    nested["accounts"][0]["nonce"] = "1"
    assert "genesis.accounts[0]" in refusal(nested).message
    assert "inputs_max" in refusal(content(limits={"input_max": 1})).mend


def test_a_misspelt_required_key_is_named() -> None:
    data = content()
    data["validator"] = data.pop("validators")
    data.pop("name")
    data["nam"] = "x"
    assert "'nam'" in refusal(data).mend


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "BadJson"),
        (b"\xff", "BadJson"),
        (b"[" * 100_000, "BadJson"),
        (b"[]", "BadType"),
        (b"1", "BadType"),
        (b'{"format": 1, "format": 1}', "DuplicateKey"),
        (b'{"format": 1.0}', "BadNumber"),
        (b'{"format": NaN}', "BadNumber"),
        (b'{"format": ' + b"9" * 5000 + b"}", "BadNumber"),
        (content(format=2), "UnknownFormat"),
        (content(format=True), "BadType"),
        (content(created_ms=5), "BadType"),
        (content(created_ms="-1"), "BadNumber"),
        (content(created_ms="01"), "BadNumber"),
        (content(created_ms="1e3"), "BadNumber"),
        (content(created_ms="\u0661"), "BadNumber"),
        (content(created_ms=str(2**64)), "BadNumber"),
        (content(name=""), "OutOfRange"),
        (content(name="\u00e9"), "OutOfRange"),
        (content(validators=[]), "OutOfRange"),
        (content(epoch_blocks="0"), "OutOfRange"),
        (content(state_tree="other"), "UnknownFormat"),
        (content(accounts=[{"address": "0xab", "balance": "1"}]), "BadHex"),
        (content(accounts=[{"address": "0x" + "a" * 64, "balance": "0"}]), "OutOfRange"),
        (content(accounts=[{"address": "0x" + "a" * 64, "balance": "1"}] * 2), "NonCanonical"),
        (
            content(
                accounts=[
                    {"address": "0x" + "a" * 64, "balance": str(2**128 - 1)},
                    {"address": "0x" + "b" * 64, "balance": "1"},
                ]
            ),
            "OutOfRange",
        ),
        (content(native={"symbol": "svm"}), "OutOfRange"),
        (content(native={"decimals": 19}), "OutOfRange"),
        (content(limits={"inputs_max": 0}), "OutOfRange"),
        (content(limits={"inputs_max": 65_536}), "OutOfRange"),
        (content(gas={"parameters": {"price": 5}}), "BadType"),
        (content(gas={"component": ""}), "OutOfRange"),
    ],
)
def test_a_wrong_file_raises_one_named_error(data: object, code: str) -> None:
    error = refusal(data)
    assert error.code == code
    assert len(str(error)) < 500


def test_the_native_token_cannot_be_declared_again() -> None:
    token = attrs.evolve(GENESIS.tokens[0], id=NATIVE_TOKEN)
    with pytest.raises(InvalidInput, match="native"):
        attrs.evolve(GENESIS, tokens=(token,))


def test_too_much_of_anything_is_refused_by_its_count() -> None:
    token = GENESIS.tokens[0]
    many = tuple(attrs.evolve(token, id=at.to_bytes(32, "big")) for at in range(1, 1026))
    with pytest.raises(InvalidInput, match="tokens: too many"):
        attrs.evolve(GENESIS, tokens=many)
    parameters = tuple((f"p{at:04}", "") for at in range(257))
    with pytest.raises(InvalidInput, match="parameters: too many"):
        attrs.evolve(GENESIS, gas=attrs.evolve(GENESIS.gas, parameters=parameters))
    error = refusal(content(limits={f"k{at}": 1 for at in range(65)}))
    assert error.code == "TooMany"
