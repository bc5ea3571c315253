"""From ONNX to an engine. Not run where this was written (see the package)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.errors import ModelNotLoaded
from pipeline.models.export.specs import GraphSpec
from pipeline.models.files import write_whole
from pipeline.models.tensorrt.platform import load_tensorrt


def build_engine(model: bytes, spec: GraphSpec, timing_cache: Path, *, progress: bool = True) -> bytes:
    """A serialised engine for this GPU, with one optimisation profile for each of the graph's batches.

    A profile whose smallest, usual and largest shape are the same is as good as a static shape, and all profiles share
    one copy of the weights; an engine for each batch would hold as many.

    The graph's own types are the engine's: TensorRT 11 knows no other way, and TensorRT 10 is asked for it.

    Args:
        model: The ONNX file's bytes, of the graph's precision.
        spec: The graph.
        timing_cache: What was measured on this GPU before; read if it is there, and written.
        progress: Whether a bar is shown.

    Raises:
        ModelNotLoaded: The parser or the builder refused; what they said is part of it.
    """
    trt = load_tensorrt()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        told = "; ".join(f"{e.desc()} ({e.node_operator()} {e.node_name()})" for e in errors[:3])
        raise ModelNotLoaded(f"TensorRT's parser refused '{spec.name}': {told}.")
    config = builder.create_builder_config()
    if spec.precision == "fp16-fft32":
        config.clear_flag(trt.BuilderFlag.TF32)  # a spectrum's first value sums a whole map
    cache = config.create_timing_cache(timing_cache.read_bytes() if timing_cache.is_file() else b"")
    config.set_timing_cache(cache, False)
    for batch in spec.batches:
        profile = builder.create_optimization_profile()
        for port in spec.inputs:
            shape = (batch, *port.shape)
            profile.set_shape(port.name, shape, shape, shape)
        config.add_optimization_profile(profile)
    with contextlib.ExitStack() as stack:
        if progress:
            config.progress_monitor = stack.enter_context(contextlib.closing(_monitor(trt, spec.name)))
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ModelNotLoaded(f"TensorRT could not build '{spec.name}'; its messages are above.")
    timing_cache.parent.mkdir(parents=True, exist_ok=True)
    write_whole(timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _monitor(trt: Any, name: str) -> Any:
    """A bar for each phase of the build that has no parent. The class needs the module to be made."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._bars: dict[str, Any] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._bars[phase_name] = tqdm(total=num_steps, desc=f"{name}: {phase_name}", disable=None, leave=False)

        def step_complete(self, phase_name: str, step: int) -> bool:
            bar = self._bars.get(phase_name)
            if bar is not None:
                bar.update(step + 1 - bar.n)
            return True

        def phase_finish(self, phase_name: str) -> None:
            bar = self._bars.pop(phase_name, None)
            if bar is not None:
                bar.close()

        def close(self) -> None:
            for bar in self._bars.values():
                bar.close()

    return Monitor()
