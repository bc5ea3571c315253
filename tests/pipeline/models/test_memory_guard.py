"""What the guard does with a batch, on a memory that tells what the test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import cv2
import pytest
import torch

from pipeline.errors import GpuMemoryExhausted, InferenceError, ModelNotLoaded, Overloaded
from pipeline.models.memory_guard import MemoryGuard, is_out_of_memory

ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 9663676416 bytes. Error code 12 (Cannot allocate memory)"
)


class StubMemory:
    """So much is free; a work takes as much as ``peaks`` says next."""

    def __init__(self, device: Literal["cuda", "cpu"] = "cpu", free_mb: float = 1000, *peaks: float | None) -> None:
        self.device = device
        self.free_mb = free_mb
        self.peaks = list(peaks)
        self.measured = 0
        self.released = 0

    def available_mb(self) -> float:
        return self.free_mb

    def start_measuring(self) -> None:
        self.measured += 1

    def peak_mb(self) -> float | None:
        return self.peaks.pop(0)

    def release(self) -> None:
        self.released += 1


class Work:
    """Doubles numbers, and notes the batches; memory ends in batches for which ``fails`` is true."""

    def __init__(self, fails: Callable[[Sequence[int]], bool] = lambda batch: False) -> None:
        self.batches: list[list[int]] = []
        self.fails = fails

    def __call__(self, batch: Sequence[int]) -> list[int]:
        self.batches.append(list(batch))
        if self.fails(batch):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [2 * item for item in batch]


def guard_of(memory: StubMemory, mb: float = 100) -> MemoryGuard[int, int]:
    """A guard whose first work took ``mb`` for one item."""
    guard: MemoryGuard[int, int] = MemoryGuard(memory)
    memory.peaks.insert(0, mb)
    guard.run([0], [1], Work())
    return guard


def run(guard: MemoryGuard[int, int], count: int, work: Work, on_cpu: Work | None = None) -> list[int]:
    return guard.run(list(range(count)), [1] * count, work, on_cpu)


def test_a_batch_that_fits_runs_whole() -> None:
    assert run(guard_of(StubMemory("cpu", 400, 400)), 4, work := Work()) == [0, 2, 4, 6]
    assert work.batches == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("free_mb", "batches"),
    [
        (799, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (399, [[0, 1], [2, 3, 4], [5, 6, 7]]),
        (100, [[n] for n in range(8)]),
    ],
)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(free_mb: float, batches: list[list[int]]) -> None:
    largest = sorted({len(batch) for batch in batches})
    memory = StubMemory("cpu", free_mb, *[100 * size for size in largest])
    assert run(guard_of(memory), 8, work := Work()) == [2 * n for n in range(8)]
    assert work.batches == batches


def test_an_odd_batch_loses_nobody() -> None:
    memory = StubMemory("cpu", 300, 300, 300, 300)
    assert run(guard_of(memory), 7, work := Work()) == [2 * n for n in range(7)]
    assert [item for batch in work.batches for item in batch] == list(range(7))
    assert max(map(len, work.batches)) == 3


def test_one_image_that_does_not_fit_on_the_gpu_is_refused_with_the_figures_and_nothing_runs() -> None:
    guard = guard_of(StubMemory("cuda", 847), mb=1200)
    work, on_cpu = Work(), Work()
    with pytest.raises(GpuMemoryExhausted) as refusal:
        run(guard, 2, work, on_cpu)
    assert refusal.value.detail == "Insufficient GPU memory to process request"
    assert refusal.value.fields == {
        "gpu_memory_required_mb": 1200,
        "gpu_memory_available_mb": 847,
        "suggested_action": "Retry in 30 seconds",
        "retry_after": 30,
    }
    assert (work.batches, on_cpu.batches) == ([], [])


def test_one_image_that_does_not_fit_into_the_machine_s_memory_is_refused_with_a_time_to_come_back() -> None:
    guard = guard_of(StubMemory("cpu", 900), mb=1200)
    with pytest.raises(Overloaded, match="Not enough memory") as refusal:
        run(guard, 1, Work())
    assert refusal.value.fields == {"retry_after": 30}


def test_after_a_refusal_the_next_request_runs_if_memory_came_back() -> None:
    memory = StubMemory("cpu", 500)
    guard = guard_of(memory)
    memory.free_mb = 50
    with pytest.raises(Overloaded):
        run(guard, 1, Work())
    memory.free_mb = 500
    assert run(guard, 1, Work()) == [0]


def test_until_it_was_measured_the_default_counts() -> None:
    guard: MemoryGuard[int, int] = MemoryGuard(StubMemory("cuda", 1199), mb_per_unit=1200)
    with pytest.raises(GpuMemoryExhausted):
        run(guard, 1, Work())


def test_what_was_measured_replaces_the_default() -> None:
    memory = StubMemory("cuda", 1300, 300, None)
    guard: MemoryGuard[int, int] = MemoryGuard(memory, mb_per_unit=1200)
    run(guard, 1, Work())
    run(guard, 4, work := Work())
    assert work.batches == [[0, 1, 2, 3]]


@pytest.mark.parametrize("peak_mb", [None, 0.0])
def test_a_device_that_does_not_tell_leaves_the_default(peak_mb: float | None) -> None:
    memory = StubMemory("cuda", 1300, peak_mb)
    guard: MemoryGuard[int, int] = MemoryGuard(memory, mb_per_unit=1200)
    run(guard, 1, Work())
    assert guard.needed_mb(2) == 2400


def test_larger_work_is_measured_again_and_smaller_is_not() -> None:
    memory = StubMemory("cuda", 10_000, 400)  # it does not cost four times as much
    guard = guard_of(memory, mb=300)
    run(guard, 4, Work())
    run(guard, 2, Work())
    assert memory.measured == 2
    assert (guard.needed_mb(8), guard.needed_mb(4)) == (800, 400)
    assert guard.needed_mb(1) == 300, "a single one still takes what it took"


def test_memory_that_ends_in_spite_of_the_guard_halves_the_batch() -> None:
    memory = StubMemory("cuda", 10_000, 100, 100)
    guard = guard_of(memory)
    work = Work(fails=lambda batch: len(batch) > 2)
    assert run(guard, 8, work) == [2 * n for n in range(8)]
    assert [len(batch) for batch in work.batches] == [8, 4, 2, 2, 4, 2, 2]
    assert memory.released == 3


def test_a_single_image_the_gpu_has_no_room_for_goes_to_the_cpu_and_the_others_stay() -> None:
    guard = guard_of(StubMemory("cuda", 10_000, 100, 100, 100))
    work, on_cpu = Work(fails=lambda batch: 1 in batch), Work()
    assert run(guard, 4, work, on_cpu) == [0, 2, 4, 6]
    assert on_cpu.batches == [[1]]


def test_memory_that_ends_on_the_cpu_too_is_refused() -> None:
    guard = guard_of(StubMemory("cuda", 10_000))
    with pytest.raises(GpuMemoryExhausted):
        run(guard, 1, Work(fails=bool), Work(fails=bool))


def test_without_its_file_the_engine_on_the_cpu_cannot_help() -> None:
    def missing(batch: Sequence[int]) -> list[int]:
        raise ModelNotLoaded("a.safetensors was changed.")

    guard = guard_of(StubMemory("cuda", 10_000))
    with pytest.raises(GpuMemoryExhausted):
        guard.run([1], [1], Work(fails=bool), missing)


def test_a_gpu_that_cannot_do_the_very_first_work_is_refused_whatever_the_cpu_could_do() -> None:
    guard: MemoryGuard[int, int] = MemoryGuard(StubMemory("cuda", 10_000))
    on_cpu = Work()
    with pytest.raises(GpuMemoryExhausted):
        run(guard, 1, Work(fails=bool), on_cpu)
    assert on_cpu.batches == []


def test_the_machine_s_memory_that_ends_for_one_image_is_refused() -> None:
    guard = guard_of(StubMemory("cpu", 10_000))
    with pytest.raises(Overloaded):
        run(guard, 1, Work(fails=bool))


def test_any_other_error_is_handed_on() -> None:
    def fail(batch: Sequence[int]) -> list[int]:
        raise InferenceError("No alpha.")

    guard = guard_of(StubMemory("cuda", 10_000))
    with pytest.raises(InferenceError, match="No alpha"):
        guard.run([1, 2], [1, 1], fail, Work())


def test_nothing_takes_nothing() -> None:
    assert run(MemoryGuard(StubMemory("cpu", 0)), 0, Work()) == []


# --- what counts as the end of memory ---


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(ALLOCATOR),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("std::bad_alloc"),
        torch.OutOfMemoryError("CUDA out of memory."),
        cv2.error("OpenCV(5.0.0) alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 9663676416 bytes"),
    ],
)
def test_the_end_of_memory_is_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("no kernel image"), ValueError("out of memory"), InferenceError("")])
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_what_pytorch_says_when_the_machine_has_no_room_is_known() -> None:
    with pytest.raises(RuntimeError) as refusal:
        torch.empty(2**46, dtype=torch.uint8)
    assert is_out_of_memory(refusal.value)
