from __future__ import annotations

from collections.abc import Callable

import pytest

from scripts.network_benchmarks.ratios import interleave, speedup, table


class Machine:
    """A clock, and calls that take the time they are told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def call(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


def test_calls_take_turns_and_none_always_follows_the_same() -> None:
    machine = Machine()
    calls = {name: machine.call(name, seconds) for name, seconds in (("a", 4), ("b", 2), ("c", 1))}
    seconds = interleave(calls, 4, clock=lambda: machine.now)
    assert "".join(machine.order) == "abcbcacababc"
    assert seconds == {"a": [4] * 4, "b": [2] * 4, "c": [1] * 4}


def test_every_call_is_told() -> None:
    ticks: list[int] = []
    interleave({"a": lambda: None, "b": lambda: None}, 3, tick=lambda: ticks.append(1))
    assert len(ticks) == 6


def test_ratios_are_of_the_same_round() -> None:
    # The second round ran on a busy machine: both sides took twice as long, and the ratio stays.
    found = speedup([3.0, 6.0, 4.0], [1.0, 2.0, 1.0])
    assert (found.median, found.lowest, found.highest) == (3.0, 3.0, 4.0)


def test_bests_may_be_of_different_rounds() -> None:
    assert speedup([6.0, 3.0], [1.0, 2.0]).of_bests == 3.0


def test_a_round_without_its_neighbour_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        speedup([1.0, 2.0], [1.0])


def test_columns_are_as_wide_as_they_must_be() -> None:
    lines = table(["engine", "s"], [["torch", "1.25"], ["openvino bfloat16", "10.5"]]).splitlines()
    assert lines == ["engine                s", "torch              1.25", "openvino bfloat16  10.5"]
