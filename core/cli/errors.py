"""How a verb ends when it can't do what was asked: one line on stderr, and the exit code that says why."""

import sys

COULD_NOT = 1
ASKED_WRONGLY = 2


class Failure(Exception):
    """The verb could not do it. The message names the value and the mend."""

    exit_code = COULD_NOT


class Misuse(Failure):
    """The verb was asked wrongly. The message names the value and what would be right."""

    exit_code = ASKED_WRONGLY


# Known errors of the layers below, by where they are defined: a verb that never imported the module can't
# have raised them, and `--help` must not import it to find out.
_KNOWN = (
    ("supervm.config.errors", "ConfigErrors", ASKED_WRONGLY),
    ("supervm.crypto.keyfile", "KeyFileError", COULD_NOT),
    ("supervm.types.errors", "ProofInvalid", COULD_NOT),
    ("supervm.types.errors", "InvalidInput", ASKED_WRONGLY),
    ("supervm.kernel.errors", "CompositionError", ASKED_WRONGLY),
    ("supervm.kernel.errors", "KernelError", COULD_NOT),
    ("supervm.client.http", "ClientError", COULD_NOT),
    ("supervm.client.wallet", "WalletError", COULD_NOT),
    ("supervm.hardware.tiers", "UnknownTier", ASKED_WRONGLY),
    ("supervm.hardware.profiles", "ComponentUnavailable", COULD_NOT),
    ("supervm.http.config", "ListenError", COULD_NOT),
    ("supervm.bench.bitcoin", "BlockInvalid", COULD_NOT),
    ("supervm.telemetry.audit", "AuditBroken", COULD_NOT),
    ("supervm.contracts.storage", "StorageError", COULD_NOT),
)


def explain(error: BaseException) -> tuple[str, int]:
    """(what to print, exit code) for an error that ends a verb. Our own bugs are said to be ours."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, Failure):
        return str(error), error.exit_code
    for module, name, code in _KNOWN:
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return str(error), code
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror or error}", COULD_NOT
    return f"internal error: {type(error).__name__}: {error}; run again with --debug to see where", COULD_NOT
