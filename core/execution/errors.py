"""What execution refuses before a block, and the codes of what it lets fail inside one."""

from enum import StrEnum

from supervm.types.errors import InvalidInput


class ExecutionError(InvalidInput):
    """Base of what execution raises for somebody else's input (EXEC-112).

    `field` names the place in the transaction. `retryable`: the same bytes may be taken later.
    """

    def __init__(
        self, code: str, field: str, message: str, value: object = "", mend: str = "", retryable: bool = False
    ) -> None:
        super().__init__(code, message, value, mend)
        self.field = field
        self.retryable = retryable


class LaneRefused(ExecutionError):
    """No lane takes the transaction (EXEC-10).

    Codes: `LaneMismatch`, `PayloadUnknown`, `SharedInput`, `NotFastEligible`, `OwnershipMismatch`,
    `ObjectMissing`, `ObjectDeleted`.
    """


class AcceptRefused(ExecutionError):
    """The state, or what is pending, doesn't let the transaction in (EXEC-8, EXEC-20).

    `conflict` is the digest that holds the lock, for `Equivocated` and `LockBusy`; else None.
    """

    def __init__(
        self,
        code: str,
        field: str,
        message: str,
        value: object = "",
        mend: str = "",
        retryable: bool = False,
        conflict: bytes | None = None,
    ) -> None:
        super().__init__(code, field, message, value, mend, retryable)
        self.conflict = conflict


class Code(StrEnum):
    """Codes that execution writes into receipts. Names are for ever; new ones may be added.

    A `void` receipt may also carry the code of the `GasError` that its fee terms raise.
    """

    # failed: the nonce is used, the fee is paid, Owned inputs have a new version, nothing else changed
    OUT_OF_GAS = "OutOfGas"
    FEE_UNFUNDED = "FeeUnfunded"
    INSUFFICIENT_FUNDS = "InsufficientFunds"
    AMOUNT_OVERFLOW = "AmountOverflow"
    TOKEN_UNKNOWN = "TokenUnknown"
    NOT_MINTER = "NotMinter"
    SUPPLY_FIXED = "SupplyFixed"
    SUPPLY_OVERFLOW = "SupplyOverflow"
    VERSION_MISMATCH = "VersionMismatch"
    OBJECT_MISSING = "ObjectMissing"
    OBJECT_DELETED = "ObjectDeleted"
    OBJECT_TOO_LARGE = "ObjectTooLarge"
    OWNERSHIP_MISMATCH = "OwnershipMismatch"
    NOT_OWNED = "NotOwned"
    IMMUTABLE_OBJECT = "ImmutableObject"
    UNDECLARED_ACCESS = "UndeclaredAccess"
    ACCESS_USED = "AccessUsed"
    STAKE_KEY = "StakeKey"
    STAKE_TOO_LOW = "StakeTooLow"
    STAKE_UNKNOWN = "StakeUnknown"
    STAKE_LEAVING = "StakeLeaving"
    STAKE_BOUND = "StakeBound"
    STAKES_FULL = "StakesFull"
    LAST_VALIDATOR = "LastValidator"
    # void: nothing happened, not even a fee
    WRONG_CHAIN = "WrongChain"
    EXPIRED = "Expired"
    PAYLOAD_UNKNOWN = "PayloadUnknown"
    LANE_MISMATCH = "LaneMismatch"
    NONCE_USED = "NonceUsed"
    NONCE_GAP = "NonceGap"


class Failed(Exception):
    """A transaction in a block fails. Never leaves execution: it becomes a receipt."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
