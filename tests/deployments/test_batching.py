"""The gate in front of batches: who waits, who goes, who fails alone, and when a replica is stuck."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import pytest
from pydantic import ValidationError

from deployments.batching import BatchGate, BatchOptions, Inferred, unwrap
from pipeline.errors import ClearcutError, InferenceError, InvalidImage, Overloaded
from tests.stub_models import PATIENCE_S


class Engine:
    """Doubles numbers; holds while told to, and fails on 13."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.release = threading.Event()
        self.release.set()
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()

    def double(self, items: Sequence[int]) -> list[int]:
        self.threads.add(threading.get_ident())
        self.batches.append(list(items))
        self.entered.set()
        assert self.release.wait(PATIENCE_S)
        if 13 in items:
            raise ValueError("thirteen at /opt/secret")
        return [2 * item for item in items]


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
async def gate() -> AsyncIterator[BatchGate]:
    gate = BatchGate()
    yield gate
    gate._executor.shutdown()


def values(results: Sequence[Inferred[int] | ClearcutError]) -> list[object]:
    return [result.value if isinstance(result, Inferred) else type(result) for result in results]


async def test_results_keep_the_order_of_the_items(gate: BatchGate, engine: Engine) -> None:
    assert values(await gate.infer(engine.double, [3, 1, 2])) == [6, 2, 4]


async def test_each_result_tells_how_long_its_batch_worked(gate: BatchGate, engine: Engine) -> None:
    first, second = [unwrap(result) for result in await gate.infer(engine.double, [1, 2])]
    assert first.infer_s == second.infer_s > 0


async def test_an_idle_gate_is_open(gate: BatchGate) -> None:
    await asyncio.wait_for(gate.wait(), PATIENCE_S)


async def test_the_gate_is_closed_while_a_batch_runs_and_opens_for_all_at_once(gate: BatchGate, engine: Engine) -> None:
    engine.release.clear()
    running = asyncio.create_task(gate.infer(engine.double, [1]))
    assert await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    waiting = [asyncio.create_task(gate.wait()) for _ in range(3)]
    await asyncio.sleep(0)  # the callers reach the gate
    assert not any(task.done() for task in waiting)
    engine.release.set()
    await running
    await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE_S)


async def test_two_batches_do_not_run_at_once(gate: BatchGate, engine: Engine) -> None:
    await asyncio.gather(*(gate.infer(engine.double, [item]) for item in range(5)))
    assert len(engine.threads) == 1


async def test_the_gate_stays_closed_until_the_last_batch_has_ended(gate: BatchGate, engine: Engine) -> None:
    """Embeddings and masks have batchers of their own before one gate."""
    engine.release.clear()
    first = asyncio.create_task(gate.infer(engine.double, [1]))
    assert await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    held = threading.Event()

    def hold(items: Sequence[int]) -> list[int]:
        assert held.wait(PATIENCE_S)
        return list(items)

    second = asyncio.create_task(gate.infer(hold, [2]))
    await asyncio.sleep(0)
    engine.release.set()
    await first
    waiting = asyncio.create_task(gate.wait())
    await asyncio.sleep(0)
    closed = not waiting.done()
    held.set()
    await second
    assert closed
    await asyncio.wait_for(waiting, PATIENCE_S)


async def test_a_batch_behind_another_is_watched_as_well(gate: BatchGate, engine: Engine) -> None:
    first = asyncio.create_task(gate.infer(engine.double, [1]))
    held = threading.Event()

    def hold(items: Sequence[int]) -> list[int]:
        assert held.wait(PATIENCE_S)
        return list(items)

    second = asyncio.create_task(gate.infer(hold, [2]))
    await first
    gate.stuck_after_s = -1
    try:
        with pytest.raises(RuntimeError):
            gate.check()
    finally:
        held.set()
        await second


async def test_the_gate_opens_again_after_a_failure(gate: BatchGate, engine: Engine) -> None:
    await gate.infer(engine.double, [13])
    await asyncio.wait_for(gate.wait(), PATIENCE_S)


async def test_an_item_that_fails_fails_alone(gate: BatchGate, engine: Engine) -> None:
    assert values(await gate.infer(engine.double, [1, 13, 2])) == [2, InferenceError, 4]


async def test_a_batch_without_failures_runs_once(gate: BatchGate, engine: Engine) -> None:
    await gate.infer(engine.double, [1, 2, 3])
    assert engine.batches == [[1, 2, 3]]


async def test_an_item_alone_waits_for_the_batch_that_runs_and_joins_none(gate: BatchGate, engine: Engine) -> None:
    engine.release.clear()
    running = asyncio.create_task(gate.infer(engine.double, [1, 2]))
    assert await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    alone = asyncio.create_task(gate.infer_alone(engine.double, 3))
    await asyncio.sleep(0)
    assert engine.batches == [[1, 2]]
    engine.release.set()
    await running
    assert unwrap(await asyncio.wait_for(alone, PATIENCE_S)).value == 6
    assert engine.batches == [[1, 2], [3]]


async def test_an_item_alone_that_fails_is_an_error_like_any_other(gate: BatchGate, engine: Engine) -> None:
    assert isinstance(await gate.infer_alone(engine.double, 13), InferenceError)


async def test_an_engines_failure_is_told_without_internals(gate: BatchGate, engine: Engine) -> None:
    (result,) = await gate.infer(engine.double, [13])
    assert isinstance(result, InferenceError)
    assert result.detail == "Model inference failed"


async def test_memory_that_ends_is_told_as_such_and_the_gate_opens_again(gate: BatchGate, engine: Engine) -> None:
    def exhaust(items: Sequence[int]) -> list[int]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9663676416 bytes.")

    (result,) = await gate.infer(exhaust, [1])
    assert isinstance(result, Overloaded)
    assert "9663676416" not in result.detail
    assert result.fields["retry_after"] == 30
    await asyncio.wait_for(gate.wait(), PATIENCE_S)
    assert values(await gate.infer(engine.double, [1])) == [2]


async def test_an_error_of_our_own_reaches_its_caller(gate: BatchGate) -> None:
    def refuse(items: Sequence[int]) -> list[int]:
        raise InvalidImage("Invalid image data", size=3)

    (result,) = await gate.infer(refuse, [1])
    with pytest.raises(InvalidImage) as caught:
        unwrap(result)
    assert caught.value.fields == {"size": 3}


async def test_an_idle_replica_is_healthy(gate: BatchGate, engine: Engine) -> None:
    gate.stuck_after_s = 0
    await gate.infer(engine.double, [1])
    gate.check()


async def test_an_inference_that_runs_too_long_makes_the_replica_unhealthy(gate: BatchGate, engine: Engine) -> None:
    engine.release.clear()
    running = asyncio.create_task(gate.infer(engine.double, [1]))
    assert await asyncio.to_thread(engine.entered.wait, PATIENCE_S)
    gate.check()
    gate.stuck_after_s = 0
    with pytest.raises(RuntimeError, match="more than 0 s"):
        gate.check()
    engine.release.set()
    await running


@pytest.mark.parametrize(
    "options", [{"max_batch_size": 0}, {"max_batch_size": 65}, {"batch_wait_timeout_s": -1}, {"stuck_after_s": 0}]
)
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        BatchOptions.model_validate(options)


def test_a_misspelt_option_is_refused() -> None:
    with pytest.raises(ValidationError, match="max_bach_size"):
        BatchOptions.model_validate({"max_bach_size": 4})
