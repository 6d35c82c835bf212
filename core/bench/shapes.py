"""The sizes of the workloads of transfers, by their fixed names (EXEC-120)."""

import attrs

ACCOUNTS, BLOCK = "accounts", "block"


@attrs.frozen(kw_only=True)
class Shape:
    """`block`: transactions of a block; `blocks`: of a turn; `grows`: the size that growth is over."""

    accounts: int
    block: int
    blocks: int
    hot: int = 0
    grows: str = BLOCK


SHAPES = {
    "transfers-50": Shape(accounts=50, block=10_000, blocks=30),
    "transfers-5": Shape(accounts=5, block=10_000, blocks=30),
    "uniform-1m": Shape(accounts=1_000_000, block=200_000, blocks=1, grows=ACCOUNTS),
    "hot-5-blocks": Shape(accounts=10_000, block=10_000, blocks=20, hot=5),
}
