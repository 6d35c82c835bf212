"""Kinds of blocks: what their transactions do, and how they get in each other's way (EXEC-39)."""

import attrs

from supervm.types.transaction import Lane


@attrs.frozen(kw_only=True)
class Profile:
    """Shares are of 1. `counts` and `operations` are drawn from: transactions a block, operations each.

    `objects`, `tokens`: the share of operations that are on them; the rest are transfers. `others`: how many
    more outputs a transfer has. `hot`: few send. `chained`: who got something sends next. `fresh`: how often
    what the block itself makes is used. `pays_one`: transactions of as many senders, of which that share pays
    one account. `inputs`: how many are declared, in one go. `short`: gas ends at any step.
    """

    name: str
    counts: tuple[int, ...] = (0, 1, 2, 5, 20, 20, 40, 80)
    operations: tuple[int, ...] = (1, 1, 1, 2, 3, 6)
    objects: float = 0.12
    tokens: float = 0.13
    others: tuple[int, ...] = (0, 0, 0, 1, 4)
    hostile: float = 0.05
    sponsored: float = 0.1
    fresh: float = 0.2
    hot: bool = False
    chained: bool = False
    pays_one: float | None = None
    inputs: tuple[int, ...] = ()
    short: bool = False
    lanes: tuple[Lane, ...] = (Lane.AUTO, Lane.AUTO, Lane.FAST, Lane.ORDERED)


ORDINARY = (
    Profile(name="calm"),
    Profile(name="hot", hot=True),
    Profile(name="chains", chained=True, hostile=0.0),
    Profile(name="objects", objects=0.8, tokens=0.05),
    Profile(name="tokens", objects=0.05, tokens=0.7),
    Profile(name="hostile", hostile=1.0),
    Profile(name="short of gas", short=True, objects=0.5, tokens=0.3, hot=True, hostile=0.0),
    Profile(name="sponsored", sponsored=0.8, hot=True),
    Profile(name="fresh", counts=(5, 20, 40), objects=0.6, tokens=0.3, fresh=0.9, hot=True),
    Profile(name="long", counts=(1, 3, 8), operations=(20, 63, 64), objects=0.4, tokens=0.2),
    Profile(name="wide", counts=(1, 3), others=(99, 254, 255), operations=(1, 2), objects=0.0, tokens=0.0),
    Profile(name="declared", counts=(1, 4), inputs=(64, 255, 256), operations=(10, 60)),
)
CROWDED = (
    *(
        Profile(name=f"{round(100 * share)}% conflicts", counts=(255, 300, 520), pays_one=share, hostile=0.0)
        for share in (0.0, 0.1, 0.5, 1.0)
    ),
    Profile(name="heavy", counts=(256, 300), others=(6, 9), objects=0.02, tokens=0.02, operations=(1,)),
    Profile(name="large objects", counts=(300,), objects=0.7, fresh=0.5),
    Profile(name="large and hot", counts=(300,), hot=True, sponsored=0.3),
    Profile(name="large chain", counts=(300,), chained=True, hostile=0.0),
)
