"""Ordering under faults and hostile validators: runs of seeds, judged after every event (CONS-90..95)."""

import attrs
import pytest

from supervm.plugins.consensus.bft.events import Send
from supervm.plugins.consensus.bft.records import decode_record, encode_record
from supervm.plugins.consensus.bft.votes import ViewVote
from supervm.types.certificate import Certificate
from tests.consensus_bft import SCALE
from tests.consensus_bft.sim.plan import PROFILES, SECOND, Fault, Mishap, Plan, draw_plan
from tests.consensus_bft.sim.search import run_plan
from tests.consensus_bft.sim.world import Node, World


@pytest.mark.parametrize("count", [4, 7])
@pytest.mark.parametrize("profile", PROFILES)
def test_no_seed_violates_an_oracle_and_all_go_on_after_healing(profile: str, count: int) -> None:
    for seed in range(6 * SCALE):
        outcome = run_plan(draw_plan(seed, profile, count))
        assert outcome.oracle == "", f"{profile} {count} seed {seed}: {outcome.problem}"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_seed_gives_the_same_trace_byte_for_byte(profile: str) -> None:
    traces = {run_plan(draw_plan(5, profile, 4)).trace for _ in range(2)}
    assert len(traces) == 1
    assert run_plan(draw_plan(6, profile, 4)).trace not in traces


@pytest.mark.parametrize("profile", ["crash", "byzantine"])
def test_messages_and_records_as_bytes_give_the_same_trace(profile: str) -> None:
    for seed in range(5):
        plan = draw_plan(seed, profile, 4)
        assert run_plan(plan, on_wire=True).trace == run_plan(plan).trace


def test_one_validator_alone_makes_its_blocks_final() -> None:
    outcome = run_plan(Plan(seed=1, weights=(5,), skews_ms=(0,), work_us=(0, 300_000)))
    assert outcome.oracle == "" and outcome.height >= 3


def test_idle_for_long_and_then_work_is_final_within_10_delays() -> None:
    """CONS-95. Ten minutes; an hour from a scale of 6 on."""
    minutes = 10 * min(SCALE, 6)
    plan = Plan(seed=1, weights=(1, 1, 1, 1), skews_ms=(0,) * 4, heal_us=60 * minutes * SECOND)
    outcome = run_plan(plan)
    assert outcome.oracle == ""
    assert outcome.healed_in_us < 10 * outcome.delay_us
    # An empty block every 5 s, and the time that it takes.
    assert 10 * minutes < outcome.height <= 12 * minutes + 1


def test_without_a_quorum_nothing_is_final_and_with_one_it_goes_on_by_itself() -> None:
    def plan(until_us: int) -> Plan:
        away = Mishap(Fault.CRASH, 1 * SECOND, until_us, (2, 3))
        work = (0, 2 * SECOND)
        weights, skews = (1,) * 4, (0,) * 4
        return Plan(
            seed=3, weights=weights, skews_ms=skews, work_us=work, mishaps=(away,), heal_us=20 * SECOND
        )

    assert run_plan(plan(100 * SECOND)).oracle == "liveness"
    assert run_plan(plan(20 * SECOND)).oracle == ""


@pytest.mark.parametrize("everyone", [False, True])
def test_a_restart_at_every_place_in_the_log_contradicts_nothing_and_the_chain_goes_on(
    everyone: bool,
) -> None:
    plan = Plan(
        seed=2, weights=(1,) * 4, skews_ms=(0,) * 4, work_us=(0, 100_000, 200_000), heal_us=2 * SECOND
    )
    calm = World(plan)
    calm.start()
    calm.run(plan.heal_us - 100_000)
    records = [len(node.durable) for node in calm.nodes]
    assert min(records) >= 6
    for number in range(2):
        for place in range(1, records[number] + 1):
            outcome = run_plan(attrs.evolve(plan, crash_at_record=(number, place, everyone)))
            assert outcome.oracle == "", f"node {number}, record {place}: {outcome.problem}"
            assert outcome.height >= 3


def test_a_machine_is_rebuilt_from_the_fewest_records_as_from_all() -> None:
    spoke = 0
    for seed in range(3, 6):
        plan = draw_plan(seed, "storm", 4)
        world = World(plan)
        world.start()
        for moment in range(0, plan.heal_us, 50_000):
            world.run(moment)
            for node in world.nodes:
                if node.ended is None and not node.chain:
                    spoke += _check_rebuilt(world, node)
    assert spoke > 10, "some had spoken in the view that they were in"


def test_a_finalisation_that_moved_a_validator_on_is_acted_on_after_a_restart() -> None:
    # Validator 6 entered a view by a finalisation, lacked the block, and crashed.
    outcome = run_plan(draw_plan(5015, "crash", 7))
    assert outcome.oracle == "", outcome.problem


def _check_rebuilt(world: World, node: Node) -> bool:
    """Whether it had spoken in the view that it was in."""
    first, again = (world._ordering(node.number, node.pool) for _ in range(2))
    first.start([decode_record(encode_record(record)) for record in node.durable], world.clock(node.number))
    outputs = again.start(first.records(), world.clock(node.number))
    assert again.view == first.view and again.records() == first.records()
    own = {vote for view in first._views.values() for vote in view.own_votes()}
    said = [output.message for output in outputs if isinstance(output, Send)]
    assert own <= set(said), "every vote above the last final view is sent again"
    votes = [at for at, each in enumerate(said) if isinstance(each, ViewVote) and each.view == again.view]
    ends = [
        at for at, each in enumerate(said) if isinstance(each, Certificate) and each.view == again.view - 1
    ]
    if votes and ends:
        assert ends[0] < votes[0], "how the view before ended is said before anything of this one"
    return bool(votes and ends)
