"""An ONNX graph on ONNX Runtime's CPU: how graphs are checked where there is no GPU. Not an engine of the ladder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx


class OnnxRunner:
    """Runs one graph; a ``Runner`` as engines want it.

    Args:
        model: A graph of ONNX, or the path of its file.
        threads: Of the CPU.
    """

    def __init__(self, model: onnx.ModelProto | str, *, threads: int = 2) -> None:
        import onnxruntime  # type: ignore[import-untyped]  # for development only

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        source = model if isinstance(model, str) else model.SerializeToString()
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name, new arrays; the first axis of all arrays is the batch."""
        found = self._session.run(self._outputs, {name: np.ascontiguousarray(array) for name, array in inputs.items()})
        return dict(zip(self._outputs, found, strict=True))
