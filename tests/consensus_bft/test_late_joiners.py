"""Whoever comes late asks whoever is there: members first, others where those don't help (CONS-61, 97)."""

from pathlib import Path

from supervm.plugins.consensus.bft.driver.sources import GUESTS_ASKED_MAX, Hints, Sources
from tests.consensus_bft.sim.world import node_id

from .network import network
from .test_epoch_nodes import QUICK, begun

MEMBERS = tuple(node_id(n) for n in range(4))
GUESTS = tuple(node_id(n) for n in range(10, 30))


async def test_a_node_joins_when_none_of_the_first_set_is_there(tmp_path: Path) -> None:
    async with network(tmp_path, validators=1, followers=2, config=QUICK, epoch_blocks=12) as net:
        await net.start(1)
        await begun(net, 1, 3)
        await net.stop(0)
        await net.start(2)
        await net.reached(2, net.nodes[1].height)
        await net.agree(net.nodes[1].height)


def test_guests_are_asked_a_few_at_a_time_in_turns_where_members_dont_help() -> None:
    hints = Hints()
    sources = Sources(hints)
    sources.now(MEMBERS, GUESTS)
    assert (sources.members, sources.guests) == (MEMBERS, ())
    hints.ahead = (GUESTS[5], node_id(40))
    assert sources.guests == (GUESTS[5],)
    seen: set[bytes] = set()
    for _ in range(3):
        sources.turn()
        assert len(sources.guests) == GUESTS_ASKED_MAX and sources.guests[0] == GUESTS[5]
        seen.update(sources.guests)
    assert seen == set(GUESTS)
    alone = Sources(Hints())
    alone.now((), GUESTS)
    assert alone.guests == GUESTS[:GUESTS_ASKED_MAX]
    alone.now((), GUESTS[:2])
    alone.turn()
    assert set(alone.guests) == set(GUESTS[:2])
