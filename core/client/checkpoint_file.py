"""The file of a checkpoint: its canonical encoding as one line of `0x` and hex (CONS-73)."""

from supervm.types.address import format_hex, parse_hex
from supervm.types.errors import InvalidInput
from supervm.types.handover import Checkpoint

FILE_BYTES_MAX = 2 * 2**20


def dump_checkpoint(checkpoint: Checkpoint) -> bytes:
    return format_hex(checkpoint.encode()).encode() + b"\n"


def load_checkpoint(data: bytes) -> Checkpoint:
    """Read the bytes of a file. Raises `InvalidInput`."""
    if len(data) > FILE_BYTES_MAX:
        raise InvalidInput("TooLarge", "checkpoint: too large", mend=f"at most {FILE_BYTES_MAX} bytes")
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        raise InvalidInput("BadHex", "checkpoint: not hex", data, "0x and hex digits") from None
    return Checkpoint.decode(parse_hex(text.strip(), "checkpoint"))
