"""The networks on a GPU: milliseconds per image at several batch sizes, beside what the device allows at best.

Not run yet: no machine with a GPU was at hand. Tests run it on a CPU, without graphs.

How the Python and launch overhead between kernels is avoided is chosen per network. CUDA graphs replay the kernels that
eager mode runs, in a second or two of preparation; they need static shapes, which all three networks have. That is the
choice for BiRefNet, whose authors advise against ``torch.compile`` for inference (long first run, little gain), and for
LaMa, whose complex numbers Inductor generates no code for. MobileSAM's encoder has many small operators between its
products, which a compiler fuses.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.mobile_sam.prompt_encoder import FOREGROUND, PADDING
from pipeline.models.torch_engines import network_of
from pipeline.models.zoo import VARIANTS
from scripts.network_benchmarks.peaks import peak_bytes_per_s, peak_flops_per_s, times_s
from scripts.network_benchmarks.work import Work, count_work

Runner: TypeAlias = Literal["eager", "graph", "compile"]

BATCHES: Final = (1, 2, 4, 8)


@dataclass(frozen=True)
class GpuCase:
    """One method of one network.

    Attributes:
        variant: Row of the zoo.
        method: Name of the method.
        shape: Of the input, without the batch.
        half: The lower precision it is served in.
        runner: What takes the overhead away.
    """

    variant: str
    method: str
    shape: tuple[int, ...]
    half: torch.dtype
    runner: Runner

    def inputs(self, batch: int, device: torch.device | str = "cpu") -> list[Tensor]:
        """What the method takes: noise; for ``decode``, as many prompts on one embedding as the batch is large."""
        generator = torch.Generator().manual_seed(1)
        if self.method != "decode":
            return [torch.randn(batch, *self.shape, generator=generator).to(device)]
        points = 1024 * torch.rand(batch, 2, 2, generator=generator)
        labels = torch.tensor([[FOREGROUND, PADDING]]).expand(batch, -1).contiguous()
        return [t.to(device) for t in (torch.randn(1, *self.shape, generator=generator), points, labels)]

    def work(self, batch: int) -> Work:
        """What a batch takes at the least."""
        return count_work(lambda: network_of(VARIANTS[self.variant]), lambda: self.inputs(batch), method=self.method)


GPU_CASES: Final[dict[str, GpuCase]] = {
    "lite": GpuCase("lite", "forward", (3, 1024, 1024), torch.float16, "graph"),
    "general": GpuCase("general", "forward", (3, 1024, 1024), torch.float16, "graph"),
    "mobile-sam-encode": GpuCase("mobile-sam", "encode", (3, 1024, 1024), torch.bfloat16, "compile"),
    "mobile-sam-decode": GpuCase("mobile-sam", "decode", (256, 64, 64), torch.bfloat16, "graph"),
    "lama": GpuCase("lama", "forward", (4, 512, 512), torch.bfloat16, "graph"),
}


@dataclass(frozen=True)
class GpuRow:
    """One line of the table.

    Attributes:
        ms_per_image: Best of the runs.
        peak_mib: The most memory of the device that PyTorch held for tensors, weights included; 0 on a CPU.
        floor_flops_ms: Per image, at the peak of a large matrix product in this precision.
        floor_bytes_ms: Per image, at the peak of a large copy.
        error: Root mean square of the difference to eager float32, as a share of its own.
        refusal: Why there are no figures.
    """

    case: str
    precision: str
    runner: Runner
    batch: int
    ms_per_image: float = 0.0
    peak_mib: float = 0.0
    floor_flops_ms: float = 0.0
    floor_bytes_ms: float = 0.0
    error: float = 0.0
    refusal: str | None = None


@dataclass(frozen=True)
class Peaks:
    """What the device reached: operations per second by precision, and bytes per second."""

    flops_per_s: dict[torch.dtype, float]
    bytes_per_s: float

    @classmethod
    def measure(cls, device: torch.device, dtypes: Sequence[torch.dtype], *, side: int, megabytes: int) -> Peaks:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")  # convolutions use TF32 where the device has it, so the peak must
        try:
            flops = {dtype: peak_flops_per_s(device, dtype, side=side) for dtype in dtypes}
        finally:
            torch.set_float32_matmul_precision(before)
        return cls(flops, peak_bytes_per_s(device, megabytes=megabytes))


def measure_gpu_case(
    name: str,
    case: GpuCase,
    network: nn.Module,
    device: torch.device,
    peaks: Peaks,
    *,
    batches: Sequence[int] = BATCHES,
    repeats: int = 10,
    runners: Sequence[Runner] | None = None,
) -> Iterator[GpuRow]:
    """The rows of one case: eager float32, eager in half precision, and half precision without the overhead.

    Args:
        network: With its weights, in float32. It is copied.
        runners: What runs in half precision; eager and the case's own if left out.
    """
    plans: list[tuple[torch.dtype, Runner]] = [(torch.float32, "eager")]
    plans += [(case.half, runner) for runner in runners or ("eager", case.runner)]
    for batch in batches:
        inputs, work = case.inputs(batch, device), case.work(batch)
        expected: Tensor | None = None
        for dtype, runner in plans:
            row: dict[str, Any] = {"case": name, "precision": str(dtype).removeprefix("torch."), "runner": runner}
            try:
                seconds, peak_mib, answer = _run(network, case.method, inputs, device, dtype, runner, repeats)
            except torch.OutOfMemoryError:
                yield GpuRow(**row, batch=batch, refusal="out of memory")
                continue
            expected = answer if expected is None else expected
            floors = work.floor_s(peaks.flops_per_s[dtype], peaks.bytes_per_s, value_bytes=dtype.itemsize)
            flops_ms, bytes_ms = (1000 * floor / batch for floor in floors)
            error = float((answer - expected).square().mean().sqrt() / expected.square().mean().sqrt())
            yield GpuRow(
                **row,
                batch=batch,
                ms_per_image=1000 * seconds / batch,
                peak_mib=peak_mib,
                floor_flops_ms=flops_ms,
                floor_bytes_ms=bytes_ms,
                error=error,
            )


@torch.inference_mode()
def _run(
    network: nn.Module,
    method: str,
    inputs: Sequence[Tensor],
    device: torch.device,
    dtype: torch.dtype,
    runner: Runner,
    repeats: int,
) -> tuple[float, float, Tensor]:
    """Best seconds, peak MiB and the answer in float32."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    moved = copy.deepcopy(network).to(device).eval()
    given = list(inputs)
    if dtype != torch.float32 and isinstance(moved, BiRefNet):  # as it is served; the others keep their weights
        moved, given = moved.to(dtype), [tensor.to(dtype) for tensor in given]
    autocast = dtype != torch.float32 and not isinstance(moved, BiRefNet)

    def function(*tensors: Tensor) -> Tensor:
        # Without its cache: weights cast while a graph is recorded would be gone when it is replayed.
        with torch.autocast(device.type, dtype if autocast else None, enabled=autocast, cache_enabled=False):
            answer = getattr(moved, method)(*tensors)
        first: Tensor = answer if isinstance(answer, Tensor) else answer[0]
        return first

    call = _prepared(function, given, runner)
    seconds = min(times_s(call, device, repeats=repeats))
    peak_mib = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
    return seconds, peak_mib, call().float()


def _prepared(function: Callable[..., Tensor], inputs: Sequence[Tensor], runner: Runner) -> Callable[[], Tensor]:
    if runner == "graph":
        graph = CudaGraph(function, inputs)
        return lambda: graph(*inputs)
    if runner == "compile":
        torch.compiler.reset()  # every batch is compiled for itself
        compiled = torch.compile(function, mode="reduce-overhead", dynamic=False)
        return lambda: compiled(*inputs).clone()  # what it returns is overwritten by the next call
    return lambda: function(*inputs)


class CudaGraph:
    """A function of tensors, recorded once for their shapes and replayed without its Python and its launches.

    Args:
        function: Has no effect but its result, and waits for nothing on the device.
        examples: Tensors of the shapes and types it will get.
    """

    def __init__(self, function: Callable[..., Tensor], examples: Sequence[Tensor]) -> None:
        self._inputs = [example.clone() for example in examples]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # what is made on first use (plans of transforms, choices of algorithms) is not recorded
                function(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's result, valid until the next call."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self._output
