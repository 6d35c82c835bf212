"""Whom a node can reach now, and who may ask it: told to what sends and receives."""

from collections.abc import Callable

from supervm.api import Context
from supervm.contracts.transport import Transport
from supervm.plugins.consensus.bft.driver.answering import Answers
from supervm.plugins.consensus.bft.driver.posting import Post
from supervm.plugins.consensus.bft.driver.receiving import Reception

LOOK_S = 0.1


async def keep_connected(
    ctx: Context,
    find: Callable[[], tuple[Transport, ...]],
    post: Post,
    reception: Reception,
    answers: Answers,
    members: tuple[bytes, ...],
    reachable: Callable[[tuple[bytes, ...], tuple[bytes, ...]], None],
) -> None:
    """Speak by whichever transports are open now: one that failed comes back as another object.

    Whoever is connected and none of `members` is a guest. `reachable` hears which members are connected, and
    which guests, whenever that changes.
    """
    told: tuple[tuple[bytes, ...], tuple[bytes, ...]] | None = None
    while True:
        transports = find()
        post.transports = transports
        with reception.serving(transports):
            while find() == transports:
                connected = {peer.node_id for transport in transports for peer in transport.peers()}
                connected.difference_update(transport.node_id for transport in transports)
                _receive_guests(connected, post, reception, members)
                answers.keep_guests(reception.guests)
                now = tuple(member for member in members if member in connected), tuple(reception.guests)
                if now != told:
                    told = now
                    reachable(*now)
                await ctx.clock.sleep(LOOK_S)


def _receive_guests(
    connected: set[bytes], post: Post, reception: Reception, members: tuple[bytes, ...]
) -> None:
    for guest in [each for each in reception.guests if each not in connected]:
        reception.leave(guest)
        post.leave(guest)
    for guest in sorted(connected.difference(members, reception.guests)):
        if reception.come(guest):
            post.admit(guest)
