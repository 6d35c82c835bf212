"""Four validators in one process, whole nodes over the transport `memory` (CONS-80, CONS-90)."""

from pathlib import Path

from .network import FUNDS, network


async def test_four_validators_finalise_a_transfer_and_have_the_same_state(tmp_path: Path) -> None:
    async with network(tmp_path) as net:
        to = b"\x07" * 32
        sent = net.transfer(0, to, 1_000)
        await net.nodes[0].chain.submit([sent.data])
        heights = [await net.committed(each, sent.digest) for each in range(4)]
        assert len(set(heights)) == 1
        await net.agree(heights[0])
        for each in range(4):
            assert await net.balance(each, to) == 1_000
            assert await net.balance(each, net.users[0].address) < FUNDS - 1_000
