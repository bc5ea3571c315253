"""The moving window in memory, beside the plainest way to count."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from deployments.limits.windows import SWEEP_EVERY_S, MemoryWindows
from tests.deployments.limits.conftest import Clock

steps = st.lists(st.tuples(st.integers(0, 90), st.integers(1, 6)), max_size=40)


@given(steps)
def test_it_admits_what_counting_by_hand_admits(steps: list[tuple[int, int]]) -> None:
    clock = Clock()
    windows = MemoryWindows(now=clock)
    spent: list[float] = []

    async def run() -> None:
        for wait_s, amount in steps:
            clock.seconds += wait_s
            recent = [at for at in spent if at >= clock.seconds - 60]
            expected = len(recent) + amount <= 5
            assert await windows.acquire_entry("a", 5, 60, amount) is expected
            if expected:
                spent.extend([clock.seconds] * amount)
                recent.extend([clock.seconds] * amount)
            assert await windows.get_moving_window("a", 5, 60) == (min(recent, default=clock.seconds), len(recent))

    asyncio.run(run())


async def test_clients_that_went_away_are_forgotten() -> None:
    clock = Clock()
    windows = MemoryWindows(now=clock)
    for client in range(1000):
        await windows.acquire_entry(str(client), 5, 60)
    clock.seconds += SWEEP_EVERY_S + 1

    await windows.acquire_entry("somebody", 5, 60)

    assert len(windows) == 1


async def test_asking_leaves_no_trace() -> None:
    windows = MemoryWindows()

    await windows.get_moving_window("a", 5, 60)
    await windows.acquire_entry("b", 5, 60, amount=6)

    assert len(windows) == 0
