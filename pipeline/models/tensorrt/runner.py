"""An engine at work: arrays in, arrays out. Not run where this was written (see the package)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InferenceError, ModelNotLoaded
from pipeline.models.export.specs import GraphSpec, Port
from pipeline.models.tensorrt.platform import load_cuda, load_tensorrt


class Runner(Protocol):
    """Runs one graph, wherever."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name, new arrays; the first axis of all arrays is the batch, one of those the graph is for."""
        ...


def batch_of(spec: GraphSpec, inputs: Mapping[str, NDArray[Any]]) -> int:
    """How many items ``inputs`` hold.

    Raises:
        InferenceError: They are not the graph's inputs: name, type, shape, or a batch no profile was made for.
    """
    batch = len(next(iter(inputs.values())))
    for port in spec.inputs:
        array = inputs.get(port.name)
        if array is None or array.dtype.name != port.dtype or array.shape != (batch, *port.shape):
            found = "nothing" if array is None else f"{array.dtype.name} {array.shape}"
            raise InferenceError(
                f"'{spec.name}' wants {port.name} as {port.dtype} {(batch, *port.shape)}, not {found}."
            )
    if batch not in spec.batches:
        raise InferenceError(f"'{spec.name}' takes {spec.batches} at a time, not {batch}.")
    return batch


def buffer_bytes(port: Port, batch: int) -> int:
    return int(np.dtype(port.dtype).itemsize * batch * np.prod(port.shape, dtype=np.int64))


class Scratch:
    """Memory of the GPU that engines work in, one after the other; it grows when a larger batch comes.

    An engine would otherwise hold, from its start, what its largest batch takes, and each engine its own.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._memory: Any = None
        self._size = 0

    def address(self, cuda: Any, size: int) -> int:
        """Where ``size`` bytes are; nothing that was there before is. The lock is held, the context is current."""
        if size > self._size:
            self._memory, self._size = None, 0  # gives it back before more is asked for
            self._memory = cuda.mem_alloc(size)
            self._size = size
        return 0 if self._memory is None else int(self._memory)


class TensorRtRunner:
    """One engine with its buffers on the GPU, in the context that PyTorch uses as well.

    Args:
        plan: The engine's bytes, verified by the caller.
        spec: The graph it was built from.
        scratch: What it works in; engines that share it run one at a time.
        device: Number of the GPU.

    Raises:
        ModelNotLoaded: TensorRT does not take the engine.
        torch.OutOfMemoryError: There is no room for it.
    """

    def __init__(self, plan: bytes, spec: GraphSpec, scratch: Scratch, *, device: int = 0) -> None:
        self._spec, self._scratch = spec, scratch
        self._trt, self._cuda = load_tensorrt(), load_cuda()
        self._context = self._cuda.Device(device).retain_primary_context()
        with self._current():
            self._logger = self._trt.Logger(self._trt.Logger.WARNING)
            self._runtime = self._trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise ModelNotLoaded(f"TensorRT {self._trt.__version__} does not take the engine '{spec.name}'.")
            self._check_profiles()
            managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            self._execution = self._engine.create_execution_context(managed)
            if self._execution is None:
                raise _out_of_memory(f"no room for the engine '{spec.name}'")
            self._stream = self._cuda.Stream()
            self._profile: int | None = None
            largest = spec.batches[-1]
            self._host = {
                port.name: self._cuda.pagelocked_empty((largest, *port.shape), np.dtype(port.dtype))
                for port in (*spec.inputs, *spec.outputs)
            }
            self._device = {
                port.name: self._cuda.mem_alloc(buffer_bytes(port, largest)) for port in (*spec.inputs, *spec.outputs)
            }

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name, new arrays.

        Raises:
            InferenceError: The inputs are not the graph's, or the engine failed.
            torch.OutOfMemoryError: The GPU has no memory left.
        """
        batch = batch_of(self._spec, inputs)
        with self._scratch.lock, self._current():
            profile = self._spec.batches.index(batch)
            self._choose_profile(profile)
            size = int(self._engine.get_device_memory_size_for_profile_v2(profile))
            self._execution.set_device_memory(self._scratch.address(self._cuda, size), size)
            for port in self._spec.inputs:
                host = self._host[port.name][:batch]
                host[...] = inputs[port.name]
                self._cuda.memcpy_htod_async(self._device[port.name], host, self._stream)
                self._require(self._execution.set_input_shape(port.name, (batch, *port.shape)))
            for name, memory in self._device.items():
                self._require(self._execution.set_tensor_address(name, int(memory)))
            self._require(self._execution.execute_async_v3(self._stream.handle))
            for port in self._spec.outputs:
                self._cuda.memcpy_dtoh_async(self._host[port.name][:batch], self._device[port.name], self._stream)
            self._stream.synchronize()
            return {port.name: self._host[port.name][:batch].copy() for port in self._spec.outputs}

    def _choose_profile(self, index: int) -> None:
        if index != self._profile:
            # On the stream of the work itself, so the work waits for it.
            self._require(self._execution.set_optimization_profile_async(index, self._stream.handle))
            self._profile = index

    def _check_profiles(self) -> None:
        """Raises ``ModelNotLoaded`` if the engine's batches or types are not the graph's."""
        same = self._engine.num_optimization_profiles == len(self._spec.batches)
        for index, batch in enumerate(self._spec.batches if same else ()):
            for port in self._spec.inputs:
                largest = self._engine.get_tensor_profile_shape(port.name, index)[2]
                same &= tuple(largest) == (batch, *port.shape)
        for port in (*self._spec.inputs, *self._spec.outputs):
            same &= np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(port.name))) == np.dtype(port.dtype)
        if not same:
            raise ModelNotLoaded(f"The engine '{self._spec.name}' was built for other arrays than this release's.")

    def _require(self, succeeded: bool) -> None:
        if not succeeded:
            self._profile = None
            raise InferenceError(f"The engine '{self._spec.name}' failed; TensorRT's message is in the log.")

    @contextlib.contextmanager
    def _current(self) -> Iterator[None]:
        """Makes the shared context this thread's; PyCUDA's lack of memory leaves as PyTorch's."""
        self._context.push()
        try:
            yield
        except self._cuda.MemoryError as error:
            raise _out_of_memory(str(error)) from error
        finally:
            self._cuda.Context.pop()


def _out_of_memory(detail: str) -> Exception:
    """PyTorch's error, so that memory that ends on the GPU is one thing to whoever handles it."""
    import torch  # is there already: both share the GPU

    return torch.OutOfMemoryError(f"CUDA out of memory: {detail}.")
