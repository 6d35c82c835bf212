"""The words that say why a transaction failed or was void, from the numbers that a fast path gives.

They are what the specification says in the same place (see `supervm.execution.block` and the operations),
for people, and part of nothing that is hashed.
"""

from collections.abc import Callable

from supervm.contracts.gas import GasError, GasPolicy
from supervm.execution.errors import Code, LaneRefused
from supervm.execution.footprint import fee_terms
from supervm.execution.lanes import check_kind
from supervm.types.transaction import Access, Transaction

STAKE_KEY = "validators vote with ed25519: stake from an account of that suite"

Words = Callable[[int, int, str, str], str]
"""From two numbers and two ids in hex. What they are depends on the code."""


def _access(number: int) -> str:
    return Access(number).name


_WORDS: dict[str, Words] = {
    Code.OUT_OF_GAS: lambda a, b, _i, _o: f"{a} gas are needed so far, gas_limit is {b}",
    Code.FEE_UNFUNDED: lambda a, _b, _i, _o: f"the reserve of {a} is not there",
    Code.INSUFFICIENT_FUNDS: lambda a, b, i, _o: f"{a} of token 0x{i} are needed, {b} are there",
    Code.AMOUNT_OVERFLOW: lambda a, _b, _i, _o: f"the amounts add up to {a}, beyond 128 bits",
    Code.TOKEN_UNKNOWN: lambda _a, _b, i, _o: f"there is no token 0x{i}",
    Code.NOT_MINTER: lambda _a, _b, i, o: f"only 0x{o} mints token 0x{i}",
    Code.SUPPLY_FIXED: lambda _a, _b, i, _o: f"the supply of token 0x{i} is fixed",
    Code.SUPPLY_OVERFLOW: lambda a, _b, _i, _o: f"the supply would be {a}, beyond 128 bits",
    Code.VERSION_MISMATCH: lambda a, b, i, _o: f"object 0x{i} is at version {a}, {b} is declared",
    Code.OBJECT_MISSING: lambda _a, _b, i, _o: f"there is no object 0x{i}",
    Code.OBJECT_DELETED: lambda _a, _b, i, _o: f"object 0x{i} was deleted",
    Code.OBJECT_TOO_LARGE: lambda a, b, _i, _o: f"{a} bytes, an object holds at most {b}",
    Code.OWNERSHIP_MISMATCH: lambda _a, _b, i, o: f"object 0x{i} belongs to 0x{o}",
    Code.NOT_OWNED: lambda a, _b, i, _o: f"object 0x{i} is shared, {_access(a)} is declared",
    Code.IMMUTABLE_OBJECT: lambda a, _b, i, _o: f"object 0x{i} is immutable, {_access(a)} is declared",
    Code.UNDECLARED_ACCESS: lambda a, _b, i, _o: (
        f"object 0x{i} is declared with {_access(a - 1)} only" if a else f"object 0x{i} is not declared"
    ),
    Code.ACCESS_USED: lambda a, _b, i, _o: f"{_access(a)} of object 0x{i} was used",
    Code.STAKE_KEY: lambda _a, _b, _i, _o: STAKE_KEY,
    Code.STAKE_TOO_LOW: lambda a, b, _i, _o: f"{a} base units would be at stake, the least are {b}",
    Code.STAKES_FULL: lambda a, _b, _i, _o: f"{a} keys have stakes",
    Code.STAKE_UNKNOWN: lambda a, _b, _i, _o: (
        "this key has no stake" if a else "this key neither has a stake nor was named by genesis"
    ),
    Code.STAKE_LEAVING: lambda a, b, _i, _o: (
        f"it asked to leave in epoch {a}" + (": withdraw first" if b else "")
    ),
    Code.STAKE_BOUND: lambda a, b, _i, _o: (
        f"this is epoch {a}, " + (f"it is free in epoch {b}" if b else "it never asked to leave")
    ),
    Code.LAST_VALIDATOR: lambda _a, _b, _i, _o: "nobody else would validate",
    Code.WRONG_CHAIN: lambda _a, _b, i, _o: f"signed for chain 0x{i}",
    Code.EXPIRED: lambda a, b, _i, _o: f"expired with epoch {a}, this is {b}",
    Code.NONCE_USED: lambda a, b, _i, _o: f"the nonce is {a}, the next one is {b}",
    Code.NONCE_GAP: lambda a, b, _i, _o: f"the nonce is {a}, the next one is {b}",
}


def words(code: str, first: int, second: int, id_: bytes, other: bytes) -> str:
    """Return the reason of a code; "" where the numbers don't say it."""
    made = _WORDS.get(code)
    return made(first, second, id_.hex(), other.hex()) if made is not None else ""


def words_of_terms(transaction: Transaction, gas: GasPolicy, gas_state: bytes) -> str:
    """Return why a transaction's kind, lane or fee terms make it void."""
    try:
        check_kind(transaction)
        gas.quote(fee_terms(transaction, transaction.body.lane), gas_state)
    except (LaneRefused, GasError) as refused:
        return str(refused)
    raise AssertionError(f"transaction 0x{transaction.digest.hex()} has nothing wrong in its terms")
