"""What the GPU's table is made of, on a CPU; graphs only where there is a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.models import torch_engines
from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.shape import TINY
from pipeline.models.zoo import VARIANTS
from scripts.network_benchmarks import gpu
from scripts.network_benchmarks.gpu import GPU_CASES, CudaGraph, GpuCase, Peaks, measure_gpu_case
from scripts.network_benchmarks.quick import add_tiny_birefnet
from tests.golden.goldens import give_synthetic_weights

CPU = torch.device("cpu")
CASE = GpuCase("tiny", "forward", (3, 64, 64), torch.bfloat16, "graph")
PEAKS = Peaks({torch.float32: 1e9, torch.bfloat16: 2e9}, 4e9)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch_engines, "SHAPES", dict(torch_engines.SHAPES))
    add_tiny_birefnet()
    yield
    del VARIANTS["tiny"]


@pytest.fixture
def network() -> BiRefNet:
    network = BiRefNet(TINY).requires_grad_(False)
    give_synthetic_weights(network)
    return network


def test_there_is_a_row_for_each_batch_and_precision(network: BiRefNet) -> None:
    rows = list(measure_gpu_case("tiny", CASE, network, CPU, PEAKS, batches=(1, 2), repeats=1, runners=["eager"]))
    assert [(row.batch, row.precision, row.runner) for row in rows] == [
        (1, "float32", "eager"),
        (1, "bfloat16", "eager"),
        (2, "float32", "eager"),
        (2, "bfloat16", "eager"),
    ]
    exact, half = rows[:2]
    assert exact.error == 0
    assert 0 < half.error < 0.2
    assert exact.ms_per_image > 0
    # Twice the peak, and half the bytes of every value.
    assert half.floor_flops_ms == pytest.approx(exact.floor_flops_ms / 2)
    assert half.floor_bytes_ms == pytest.approx(exact.floor_bytes_ms / 2)


def test_floors_are_of_one_image(network: BiRefNet) -> None:
    one, eight = (CASE.work(batch) for batch in (1, 8))
    row = next(measure_gpu_case("tiny", CASE, network, CPU, PEAKS, batches=(8,), repeats=1, runners=["eager"]))
    assert row.floor_flops_ms == pytest.approx(1000 * eight.flops / 1e9 / 8)
    assert row.floor_flops_ms == pytest.approx(1000 * one.flops / 1e9, rel=0.01)


def test_what_does_not_fit_is_told_and_the_rest_goes_on(network: BiRefNet, monkeypatch: pytest.MonkeyPatch) -> None:
    run = gpu._run

    def with_little_memory(net, method, inputs, *rest):  # type: ignore[no-untyped-def]
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError
        return run(net, method, inputs, *rest)

    monkeypatch.setattr(gpu, "_run", with_little_memory)
    rows = list(measure_gpu_case("tiny", CASE, network, CPU, PEAKS, batches=(2, 1), repeats=1, runners=["eager"]))
    assert [row.refusal for row in rows] == ["out of memory", "out of memory", None, None]


@pytest.mark.parametrize("name", ["mobile-sam-decode", "lama"])
def test_the_work_of_the_real_networks_can_be_counted(name: str) -> None:
    one, two = (GPU_CASES[name].work(batch) for batch in (1, 2))
    assert 1e9 < one.flops < two.flops <= 2 * one.flops
    assert one.values < two.values


def test_peaks_are_measured_for_every_precision() -> None:
    peaks = Peaks.measure(CPU, [torch.float32, torch.bfloat16], side=64, megabytes=1)
    assert all(value > 0 for value in peaks.flops_per_s.values())
    assert peaks.bytes_per_s > 0


@pytest.mark.gpu
@torch.inference_mode()
def test_a_graph_gives_what_eager_gives(network: BiRefNet) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    network.cuda()
    first, second = (torch.randn(2, 3, 64, 64, device="cuda") for _ in range(2))
    graph = CudaGraph(network, [first])
    for x in (second, first):
        torch.testing.assert_close(graph(x).clone(), network(x), rtol=0, atol=1e-3)


def test_every_case_is_a_row_of_the_zoo() -> None:
    assert {case.variant for case in GPU_CASES.values()} <= set(VARIANTS)
