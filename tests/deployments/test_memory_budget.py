"""The memory requests may hold together: never over the budget, and all of it free again in the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from deployments.memory_budget import MIB, HeldMemory, MemoryBudget, hold_pixels
from pipeline.codecs import ImageHeader
from pipeline.errors import Overloaded

TOTAL = 1000
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 1500)),
        st.tuples(st.just("grow"), st.integers(0, 1500)),
        st.tuples(st.just("release"), st.integers(0, 30)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_the_budget_holds_and_is_whole_again_afterwards(steps: list[tuple[str, int]]) -> None:
    budget = MemoryBudget(TOTAL / MIB)
    held: list[HeldMemory] = []
    for step, number in steps:
        before = budget.held
        try:
            if step == "hold":
                held.append(budget.hold(number))
            elif held and step == "grow":
                held[number % len(held)].grow(number)
            elif held and step == "release":
                held[number % len(held)].release()  # again and again, for some
            elif held:
                with pytest.raises(ZeroDivisionError), held.pop(number % len(held)):
                    raise ZeroDivisionError
        except Overloaded:
            assert budget.held == before
        live = [memory.size for memory in held if memory.size]
        assert budget.held == sum(live)
        assert budget.held <= TOTAL or len(live) == 1
    for memory in held:
        memory.release()
    assert budget.held == 0


def test_what_is_larger_than_all_of_it_passes_alone() -> None:
    budget = MemoryBudget(1)
    large = budget.hold(5 * MIB)
    with pytest.raises(Overloaded) as caught:
        budget.hold(1)
    assert caught.value.fields["retry_after"] == 2
    large.release()
    small = budget.hold(1)
    with pytest.raises(Overloaded):
        budget.hold(5 * MIB)
    assert budget.held == small.size == 1


def test_what_holds_nothing_is_never_refused() -> None:
    budget = MemoryBudget(1)
    budget.hold(5 * MIB)
    assert budget.hold(0).size == 0


def test_released_memory_does_not_grow() -> None:
    memory = MemoryBudget(1).hold(1)
    memory.release()
    with pytest.raises(Overloaded):
        memory.grow(1)


def test_pixels_count_as_what_they_take() -> None:
    memory = MemoryBudget(1).hold(10)
    hold_pixels(Request({"type": "http", "state": {"memory": memory}}), ImageHeader("PNG", 5, 7), 4)
    assert memory.size == 10 + 5 * 7 * 4


def test_pixels_of_a_request_that_nobody_counts_pass() -> None:
    hold_pixels(Request({"type": "http"}), ImageHeader("PNG", 5, 7), 4)
