"""Compiled networks as functions of tensors."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import numpy as np
import openvino as ov
import torch
from openvino import properties
from torch import Tensor

Precision: TypeAlias = Literal["float32", "bfloat16"]

_TYPES: Final[dict[Precision, ov.Type]] = {"float32": ov.Type.f32, "bfloat16": ov.Type.bf16}


class CompiledNetwork:
    """A network of one input and one output on OpenVINO: float32 tensors on the CPU in, the same out.

    It is compiled for one image. Images of a batch follow each other: one alone keeps all threads busy.
    Not for several threads at once.
    """

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._request = compiled.create_infer_request()

    def __call__(self, x: Tensor) -> Tensor:
        """The network's output (B, …) for ``x`` (B, …), whose shape but for B is the one compiled for."""
        return torch.cat([self._run(one) for one in torch.split(x, 1)])

    def _run(self, x: Tensor) -> Tensor:
        results = self._request.infer([np.ascontiguousarray(x.numpy())], share_inputs=True)
        return torch.from_numpy(results[0])


def compile_model(model: ov.Model, *, precision: Precision) -> bytes:
    """The model as compiled for this CPU; ``load`` takes it again."""
    compiled = ov.Core().compile_model(model, "CPU", _settings(threads=0, precision=precision))
    data: bytes = compiled.export_model().getvalue()
    return data


def load(data: bytes, *, threads: int, precision: Precision) -> CompiledNetwork:
    """The network that ``compile_model`` made. Raises ``RuntimeError`` if the bytes are not one."""
    tensor = ov.Tensor(np.frombuffer(data, np.uint8))
    return CompiledNetwork(ov.Core().import_model(tensor, "CPU", _settings(threads=threads, precision=precision)))


def has_bfloat16() -> bool:
    """Whether this CPU computes with bfloat16 itself."""
    return "BF16" in ov.Core().get_property("CPU", properties.device.capabilities)


def _settings(*, threads: int, precision: Precision) -> dict[str, object]:
    return {
        # By default it takes bfloat16 where the CPU has it, whatever that does to the network.
        properties.hint.inference_precision: _TYPES[precision],
        properties.hint.performance_mode: properties.hint.PerformanceMode.LATENCY,
        properties.num_streams: 1,
        properties.inference_num_threads: threads,
        # The replicas of other models pin themselves to the same cores otherwise.
        properties.hint.enable_cpu_pinning: False,
    }
