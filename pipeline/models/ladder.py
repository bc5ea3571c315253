"""Which engine runs: the best rung of the ladder that this machine can stand on, and why not a better one.

TensorRT → PyTorch on the GPU → OpenVINO → PyTorch on the CPU → embedded. The rungs above the last need verified weights
(``weights.py``); ``engine: auto`` ends on the last one without them, any other choice then runs nothing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, NoReturn, Protocol, TypeAlias, TypeVar

import cv2

from pipeline.errors import GpuMemoryExhausted, InferenceError, ModelNotLoaded, Overloaded
from pipeline.models.embedded.opencv_inpainting import OpenCvInpainting
from pipeline.models.memory_guard import is_out_of_memory
from pipeline.models.warm_up import warm_up_inpainting, warm_up_matting, warm_up_segmentation
from pipeline.models.weights import VerifiedWeights, find_weights, verify_weights
from pipeline.models.zoo import VARIANTS
from pipeline.protocols import InpaintingEngine, MattingEngine, SegmentationEngine
from pipeline.types import EngineInfo

EngineChoice: TypeAlias = Literal["auto", "tensorrt", "torch", "openvino", "embedded"]
VariantChoice: TypeAlias = Literal["auto", "general", "lite"]
PrecisionChoice: TypeAlias = Literal["auto", "float32", "bfloat16"]
Device: TypeAlias = Literal["cuda", "cpu"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """What a deployment asks the ladder for.

    Attributes:
        engine: ``auto`` takes the best that runs; any other name takes that one or nothing.
        has_gpu: Whether the deployment holds a share of a GPU.
        threads: CPU threads for the engine.
        models_dir: Folder of weight files.
        weights_file: A file to use instead of one in ``models_dir``, or None.
        variant: Which BiRefNet; ``auto`` is general on a GPU and lite on a CPU.
        allow_unpinned: Whether synthetic and custom weights may load.
        precision: On a CPU. ``auto`` is float32; for LaMa, bfloat16 where the CPU has matrix tiles for it (AMX).
            bfloat16 is quicker and less exact, on CPUs that have it.
    """

    engine: EngineChoice = "auto"
    has_gpu: bool = False
    threads: int = 2
    models_dir: Path = Path("models")
    weights_file: Path | None = None
    variant: VariantChoice = "auto"
    allow_unpinned: bool = False
    precision: PrecisionChoice = "auto"


class _Engine(Protocol):
    @property
    def info(self) -> EngineInfo: ...


Engine = TypeVar("Engine", bound=_Engine)


@dataclass(frozen=True)
class Loaded(Generic[Engine]):
    """An engine, and how it came to be the one.

    Attributes:
        engine: Warmed up: it has answered once.
        weights: The file it runs on; None for the embedded engines.
        degraded_reason: Why a better one does not run; None if nothing is amiss, or if the engine knows it best.
    """

    engine: Engine
    weights: VerifiedWeights | None = None
    degraded_reason: str | None = None

    @property
    def info(self) -> EngineInfo:
        """What the engine tells of itself, with the ladder's reason."""
        info = self.engine.info
        return dataclasses.replace(info, degraded_reason=self.degraded_reason or info.degraded_reason)


@dataclass(frozen=True)
class Task(Generic[Engine]):
    """How one model comes onto each rung.

    Attributes:
        model: What it is called in logs and errors.
        variants: Rows of the zoo that may run on each device, the best first.
        on_torch: The engine with these weights on this device. Raises ``ModelNotLoaded`` if they do not fit.
        embedded: The engine that needs no weights.
        on_openvino: The engine with these weights on OpenVINO, or None if the model has no form for it. Raises
            ``ModelNotLoaded`` with the reason if it does not run, or does not do what PyTorch does.
        on_tensorrt: The same on TensorRT, whose engines are built and verified before (``warmup_tensorrt.py``).
        warm_up: Lets the engine work once. Raises ``InferenceError`` if its answer is none.
    """

    model: str
    variants: Mapping[Device, tuple[str, ...]]
    on_torch: Callable[[VerifiedWeights, Device], Engine]
    embedded: Callable[[], Engine]
    on_openvino: Callable[[VerifiedWeights], Engine] | None = None
    on_tensorrt: Callable[[VerifiedWeights], Engine] | None = None
    warm_up: Callable[[Engine], None] = field(kw_only=True)


def load_matting(options: EngineOptions) -> Loaded[MattingEngine]:
    """The matting engine. Raises ``ModelNotLoaded`` if the wanted one cannot run."""

    def on_torch(weights: VerifiedWeights, device: Device) -> MattingEngine:
        from pipeline.models import torch_engines  # imports torch: only where it runs

        return torch_engines.matting(weights, device)

    def on_openvino(weights: VerifiedWeights) -> MattingEngine:
        from pipeline.models.openvino import engines  # imports torch and OpenVINO: only where they run

        return engines.matting(
            weights, models_dir=options.models_dir, threads=options.threads, precision=_cpu_precision(options)
        )

    def on_tensorrt(weights: VerifiedWeights) -> MattingEngine:
        from pipeline.models.tensorrt import rung  # imports what needs a GPU: only where it runs

        return rung.matting(weights)

    def embedded() -> MattingEngine:
        from pipeline.models.embedded.neural_matting import EmbeddedMatting  # imports torch: only where it runs

        _set_torch_threads(options.threads)
        return EmbeddedMatting()

    task = Task(
        "BiRefNet", _birefnet_variants(options), on_torch, embedded, on_openvino, on_tensorrt, warm_up=warm_up_matting
    )
    return load_best(task, options)


def load_segmentation(options: EngineOptions) -> Loaded[SegmentationEngine]:
    """The segmentation engine. Raises ``ModelNotLoaded`` if the wanted one cannot run."""

    def on_torch(weights: VerifiedWeights, device: Device) -> SegmentationEngine:
        from pipeline.models import torch_engines  # imports torch: only where it runs

        return torch_engines.segmentation(weights, device)

    def on_openvino(weights: VerifiedWeights) -> SegmentationEngine:
        from pipeline.models.openvino import engines  # imports torch and OpenVINO: only where they run

        return engines.segmentation(
            weights, models_dir=options.models_dir, threads=options.threads, precision=_cpu_precision(options)
        )

    def on_tensorrt(weights: VerifiedWeights) -> SegmentationEngine:
        from pipeline.models.tensorrt import rung  # imports what needs a GPU: only where it runs

        return rung.segmentation(weights)

    def embedded() -> SegmentationEngine:
        from pipeline.models.embedded.neural_segmentation import EmbeddedSegmentation  # imports torch, as above

        _set_torch_threads(options.threads)
        return EmbeddedSegmentation()

    task = Task(
        "MobileSAM", _on_both("mobile-sam"), on_torch, embedded, on_openvino, on_tensorrt, warm_up=warm_up_segmentation
    )
    return load_best(task, options)


def load_inpainting(options: EngineOptions) -> Loaded[InpaintingEngine]:
    """The inpainting engine. Raises ``ModelNotLoaded`` if the wanted one cannot run."""

    def on_torch(weights: VerifiedWeights, device: Device) -> InpaintingEngine:
        import torch  # slow, as the next: only where it runs

        from pipeline.models import torch_engines

        dtype = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}[options.precision]
        return torch_engines.inpainting(weights, device, dtype)

    def on_tensorrt(weights: VerifiedWeights) -> InpaintingEngine:
        from pipeline.models.tensorrt import rung  # imports what needs a GPU: only where it runs

        return rung.inpainting(weights)

    task = Task(
        "LaMa", _on_both("lama"), on_torch, OpenCvInpainting, on_tensorrt=on_tensorrt, warm_up=warm_up_inpainting
    )
    if options.engine == "openvino":
        logger.info("LaMa: its form for CPUs is PyTorch's, which is as quick and takes windows of any size.")
        options = dataclasses.replace(options, engine="torch", has_gpu=False)
    return load_best(task, options)


def _on_both(variant: str) -> dict[Device, tuple[str, ...]]:
    return {"cuda": (variant,), "cpu": (variant,)}


def _cpu_precision(options: EngineOptions) -> Literal["float32", "bfloat16"]:
    return "float32" if options.precision == "auto" else options.precision


def _birefnet_variants(options: EngineOptions) -> dict[Device, tuple[str, ...]]:
    if options.variant != "auto":
        return _on_both(options.variant)
    # A CPU would need most of a request's deadline for general: there it runs only if it is asked for.
    return {"cuda": ("general", "lite"), "cpu": ("lite", "general") if options.weights_file else ("lite",)}


def load_best(task: Task[Engine], options: EngineOptions) -> Loaded[Engine]:
    """The engine of the best rung that is wanted and can run; the log says why those above it were passed over.

    Raises:
        ModelNotLoaded: None can.
    """
    cv2.setNumThreads(options.threads)
    ladder = _Ladder(task, options)
    reason = ""
    for engine, name, load in ladder.rungs():
        if options.engine not in ("auto", engine):
            continue
        try:
            return _warmed_up(load(), task)
        except ModelNotLoaded as refusal:
            reason = refusal.detail
        except (InferenceError, GpuMemoryExhausted, Overloaded) as failure:
            reason = ladder.note_failure(name, failure.detail)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            reason = ladder.note_failure(name, "There is not enough memory.")
        level = logging.WARNING if ladder.is_worth_a_warning(reason) else logging.INFO
        logger.log(level, "%s: %s passed over: %s", task.model, name, reason)
    raise ModelNotLoaded(reason)


def _warmed_up(loaded: Loaded[Engine], task: Task[Engine]) -> Loaded[Engine]:
    task.warm_up(loaded.engine)
    return loaded


class _Ladder(Generic[Engine]):
    """The rungs. Each is an engine or a ``ModelNotLoaded`` that says why it is none."""

    def __init__(self, task: Task[Engine], options: EngineOptions) -> None:
        self._task = task
        self._options = options
        self._found: dict[str, VerifiedWeights] = {}
        self._refused: dict[str, ModelNotLoaded] = {}
        self._unusable: str | None = None
        self._why_no_gpu: str | None = None
        self._why_no_openvino: str | None = None

    def rungs(self) -> Sequence[tuple[EngineChoice, str, Callable[[], Loaded[Engine]]]]:
        """From the top: the choice each belongs to, its name, and what loads it."""
        return (
            ("tensorrt", "TensorRT", self._tensorrt),
            ("torch", "PyTorch on the GPU", self._torch_on_the_gpu),
            ("openvino", "OpenVINO", self._openvino),
            ("torch", "PyTorch on the CPU", self._torch_on_the_cpu),
            ("embedded", "the embedded engine", self._embedded),
        )

    def is_worth_a_warning(self, reason: str) -> bool:
        """Whether something is there and cannot be used: a GPU, a weight file or OpenVINO."""
        return reason in (self._unusable, self._why_no_gpu, self._why_no_openvino)

    def note_failure(self, name: str, problem: str) -> str:
        """Remembers that an engine was there and could not do its first work; the reason to tell."""
        reason = f"{self._task.model} fails on {name}: {problem}"
        if name == "OpenVINO":
            self._why_no_openvino = reason
        else:
            self._unusable = self._why_no_gpu = reason
        return reason

    def _tensorrt(self) -> Loaded[Engine]:
        load = self._task.on_tensorrt
        if load is None:
            self._not_there_yet("TensorRT", "cuda")
        if self._options.engine != "auto":
            self._weights("cuda")  # missing weights can be mended, so they are told first
        if not self._options.has_gpu:
            raise ModelNotLoaded(f"{self._task.model} has no share of a GPU.")
        weights = self._weights("cuda")
        import torch  # slow, and only a replica with a GPU share needs it here

        try:
            return self._loaded(load(weights), weights, "cuda")
        except torch.OutOfMemoryError:
            raise ModelNotLoaded(f"{self._task.model}'s engines do not fit into the GPU's memory.") from None

    def _torch_on_the_gpu(self) -> Loaded[Engine]:
        if not self._options.has_gpu:
            raise ModelNotLoaded(f"{self._task.model} has no share of a GPU.")
        import torch  # slow, and only a replica with a GPU share needs it here

        try:
            if not torch.cuda.is_available():
                raise ModelNotLoaded(f"Ray offers a GPU, but PyTorch {torch.__version__} sees none.")
            return self._on_torch("cuda")
        except torch.OutOfMemoryError:
            self._why_no_gpu = f"{self._task.model} does not fit into the GPU's memory."
            raise ModelNotLoaded(self._why_no_gpu) from None
        except ModelNotLoaded as refusal:
            self._why_no_gpu = refusal.detail
            raise

    def _openvino(self) -> Loaded[Engine]:
        load = self._task.on_openvino
        if load is None:
            self._not_there_yet("OpenVINO", "cpu")
        weights = self._weights("cpu")
        _set_torch_threads(self._options.threads)
        try:
            import openvino  # noqa: F401  slow, and not for every machine
        except (ImportError, OSError) as error:
            raise ModelNotLoaded(f"OpenVINO cannot be imported ({error}).") from error
        try:
            return self._without_a_gpu(self._loaded(load(weights), weights, "cpu"))
        except ModelNotLoaded as refusal:
            self._why_no_openvino = refusal.detail
            raise

    def _torch_on_the_cpu(self) -> Loaded[Engine]:
        return self._without_a_gpu(self._on_torch("cpu"))

    def _without_a_gpu(self, loaded: Loaded[Engine]) -> Loaded[Engine]:
        return dataclasses.replace(loaded, degraded_reason=loaded.degraded_reason or self._why_no_gpu)

    def _embedded(self) -> Loaded[Engine]:
        reason = self._unusable and f"{self._unusable} The embedded engine runs instead."
        if self._options.engine == "embedded":
            reason = "The embedded engine was asked for; 'engine: auto' runs a better one where its weights are."
        return Loaded(self._task.embedded(), degraded_reason=reason)

    def _not_there_yet(self, engine: str, device: Device) -> NoReturn:
        if self._options.engine != "auto":
            self._weights(device)  # missing weights can be mended, so they are told first
        raise ModelNotLoaded(
            f"{self._task.model} does not run on {engine} in this release. Set engine to 'auto' or 'torch'."
        )

    def _on_torch(self, device: Device) -> Loaded[Engine]:
        weights = self._weights(device)
        _set_torch_threads(self._options.threads)
        try:
            engine = self._task.on_torch(weights, device)
        except ModelNotLoaded as refusal:
            self._unusable = refusal.detail
            raise
        return self._loaded(engine, weights, device)

    def _loaded(self, engine: Engine, weights: VerifiedWeights, device: Device) -> Loaded[Engine]:
        if weights.origin != "official":
            logger.warning("%s runs on %s weights: %s.", self._task.model, weights.origin, weights.path.name)
        # Another variant than the best was taken because that one has no weights.
        better = self._refused.get(self._task.variants[device][0])
        return Loaded(engine, weights, better.detail if better and self._options.weights_file is None else None)

    def _weights(self, device: Device) -> VerifiedWeights:
        """The best variant's file that can be used. Raises the best variant's refusal if none can."""
        names = self._task.variants[device]
        for name in names:
            if name not in self._found and name not in self._refused:
                self._look_for(name)
            if name in self._found:
                return self._found[name]
        raise self._refused[names[0]]

    def _look_for(self, name: str) -> None:
        options, variant = self._options, VARIANTS[name]
        file, unpinned = options.weights_file, options.allow_unpinned
        try:
            self._found[name] = (
                find_weights(options.models_dir, variant, allow_unpinned=unpinned)
                if file is None
                else verify_weights(file, variant, allow_unpinned=unpinned)
            )
            return
        except ModelNotLoaded as refusal:
            self._refused[name] = refusal
        except OSError as error:
            self._refused[name] = ModelNotLoaded(f"{variant.model_version}'s weights cannot be read: {error.strerror}.")
        names = [variant.file_name, *([variant.unpinned_file_name] if unpinned else [])]
        if file is not None or any((options.models_dir / there).exists() for there in names):
            self._unusable = self._unusable or self._refused[name].detail


def _set_torch_threads(threads: int) -> None:
    """Ray gives a replica one thread, whatever the machine has."""
    import torch

    torch.set_num_threads(threads)
