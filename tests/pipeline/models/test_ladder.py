"""Which engine runs, what is said of those that do not, and that no weights run that cannot be trusted."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import torch

from pipeline.errors import GpuMemoryExhausted, InferenceError, ModelNotLoaded, Overloaded
from pipeline.models import ladder
from pipeline.models.ladder import (
    Device,
    EngineChoice,
    EngineOptions,
    Loaded,
    Task,
    load_best,
    load_inpainting,
    load_matting,
    load_segmentation,
)
from pipeline.models.sidecar import record, sidecar_path
from pipeline.models.weights import VerifiedWeights
from pipeline.models.zoo import VARIANTS
from pipeline.types import EngineInfo

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """The ladder sets the threads of the whole process."""
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pipeline.models.ladder")
    return caplog


@pytest.fixture
def options(tmp_path: Path) -> EngineOptions:
    """A machine without a GPU, where synthetic weights may load."""
    return EngineOptions(models_dir=tmp_path, allow_unpinned=True, threads=1)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch says that it sees a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class Engine:
    """Knows only what it is."""

    def __init__(self, model_version: str, device: str, degraded_reason: str | None = None) -> None:
        self.info = EngineInfo(model_version, device, (8, 8), degraded_reason=degraded_reason)


def on_torch(weights: VerifiedWeights, device: Device) -> Engine:
    return Engine(weights.model_version, device)


def task(
    on_torch: Callable[[VerifiedWeights, Device], Engine] = on_torch,
    cuda: tuple[str, ...] = ("general", "lite"),
    cpu: tuple[str, ...] = ("lite",),
    on_openvino: Callable[[VerifiedWeights], Engine] | None = None,
    on_tensorrt: Callable[[VerifiedWeights], Engine] | None = None,
    warm_up: Callable[[Engine], None] = lambda engine: None,
) -> Task[Engine]:
    embedded = Engine("embedded", "cpu", "No model weights found.")
    return Task(
        "BiRefNet", {"cuda": cuda, "cpu": cpu}, on_torch, lambda: embedded, on_openvino, on_tensorrt, warm_up=warm_up
    )


def on_openvino(weights: VerifiedWeights) -> Engine:
    engine = Engine(weights.model_version, "cpu")
    engine.info = dataclasses.replace(engine.info, runtime="openvino")
    return engine


def on_tensorrt(weights: VerifiedWeights) -> Engine:
    engine = Engine(weights.model_version, "cuda")
    engine.info = dataclasses.replace(engine.info, runtime="tensorrt", tensorrt=True)
    return engine


def not_on_tensorrt(weights: VerifiedWeights) -> Engine:
    raise ModelNotLoaded(f"{weights.model_version}'s TensorRT engine 'matting-1024x1024' was not built.")


def not_on_openvino(weights: VerifiedWeights) -> Engine:
    raise ModelNotLoaded(f"{weights.model_version} is not the same on OpenVINO.")


def write(folder: Path, name: str, content: bytes = b"weights", *, made_for: str | None = None) -> Path:
    """A file that passes for synthetic weights of variant ``name``; nothing here looks into it."""
    path = folder / VARIANTS[name].unpinned_file_name
    path.write_bytes(content)
    record(path, made_for or name, "synthetic")
    return path


def ran(loaded: Loaded[Engine]) -> tuple[str, str]:
    return loaded.info.model_version, loaded.info.device


# --- which rung ---


def test_without_weights_the_embedded_engine_runs_and_each_rung_above_says_why_not(
    options: EngineOptions, log: pytest.LogCaptureFixture
) -> None:
    loaded = load_best(task(), options)

    assert ran(loaded) == ("embedded", "cpu")
    assert loaded.weights is None
    assert loaded.info.degraded_reason == "No model weights found."
    missing = (
        "BiRefNet-lite has no weights: BiRefNet-lite-4417d897.safetensors is missing. "
        "Run scripts/download_models.py lite."
    )
    assert log.messages == [
        "BiRefNet: TensorRT passed over: BiRefNet does not run on TensorRT in this release. "
        "Set engine to 'auto' or 'torch'.",
        "BiRefNet: PyTorch on the GPU passed over: BiRefNet has no share of a GPU.",
        "BiRefNet: OpenVINO passed over: BiRefNet does not run on OpenVINO in this release. "
        "Set engine to 'auto' or 'torch'.",
        f"BiRefNet: PyTorch on the CPU passed over: {missing}",
    ]
    assert {record.levelno for record in log.records} == {logging.INFO}


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_with_weights_and_no_gpu_torch_runs_on_the_cpu(options: EngineOptions, engine: EngineChoice) -> None:
    path = write(options.models_dir, "lite")
    loaded = load_best(task(), dataclasses.replace(options, engine=engine))

    assert ran(loaded) == ("BiRefNet-lite+synthetic", "cpu")
    assert loaded.weights is not None
    assert loaded.weights.path == path
    assert loaded.info.degraded_reason is None


def test_a_pinned_file_runs_under_its_own_name(options: EngineOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    lite = VARIANTS["lite"]
    pin = dataclasses.replace(lite.weights, sha256=hashlib.sha256(b"official").hexdigest())
    monkeypatch.setitem(VARIANTS, "lite", dataclasses.replace(lite, weights=pin))
    (options.models_dir / VARIANTS["lite"].file_name).write_bytes(b"official")

    loaded = load_best(task(), dataclasses.replace(options, allow_unpinned=False))
    assert ran(loaded) == ("BiRefNet-lite", "cpu")


@pytest.mark.usefixtures("cuda")
def test_a_gpu_runs_its_best_variant(options: EngineOptions) -> None:
    write(options.models_dir, "lite")
    write(options.models_dir, "general")
    loaded = load_best(task(), dataclasses.replace(options, has_gpu=True))

    assert ran(loaded) == ("BiRefNet-general+synthetic", "cuda")
    assert loaded.info.degraded_reason is None


@pytest.mark.usefixtures("cuda")
def test_a_gpu_without_weights_of_its_best_variant_runs_the_next_and_says_so(options: EngineOptions) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(), dataclasses.replace(options, has_gpu=True))

    assert ran(loaded) == ("BiRefNet-lite+synthetic", "cuda")
    assert loaded.info.degraded_reason is not None
    assert "BiRefNet-general" in loaded.info.degraded_reason


@pytest.mark.usefixtures("no_cuda")
def test_a_gpu_that_torch_does_not_see_leaves_the_work_on_the_cpu(
    options: EngineOptions, log: pytest.LogCaptureFixture
) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(), dataclasses.replace(options, has_gpu=True))

    assert ran(loaded) == ("BiRefNet-lite+synthetic", "cpu")
    assert loaded.info.degraded_reason == f"Ray offers a GPU, but PyTorch {torch.__version__} sees none."
    assert [record.message for record in log.records if record.levelno == logging.WARNING] == [
        f"BiRefNet: PyTorch on the GPU passed over: {loaded.info.degraded_reason}",
        "BiRefNet runs on synthetic weights: BiRefNet-lite.safetensors.",
    ]


@pytest.mark.usefixtures("cuda")
def test_a_model_that_does_not_fit_into_the_gpus_memory_runs_on_the_cpu(options: EngineOptions) -> None:
    def too_large(weights: VerifiedWeights, device: Device) -> Engine:
        if device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return on_torch(weights, device)

    for name in ("general", "lite"):
        write(options.models_dir, name)
    loaded = load_best(task(too_large), dataclasses.replace(options, has_gpu=True))

    assert ran(loaded) == ("BiRefNet-lite+synthetic", "cpu")
    assert loaded.info.degraded_reason == "BiRefNet does not fit into the GPU's memory."


def test_the_embedded_engine_runs_if_it_is_asked_for_and_says_that_it_was(options: EngineOptions) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(), dataclasses.replace(options, engine="embedded"))

    assert ran(loaded) == ("embedded", "cpu")
    assert loaded.info.degraded_reason is not None
    assert "was asked for" in loaded.info.degraded_reason


# --- OpenVINO ---


@pytest.mark.parametrize("engine", ["auto", "openvino"])
def test_openvino_goes_before_torch_on_the_cpu(options: EngineOptions, engine: EngineChoice) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(on_openvino=on_openvino), dataclasses.replace(options, engine=engine))

    assert ran(loaded) == ("BiRefNet-lite+synthetic", "cpu")
    assert loaded.info.runtime == "openvino"
    assert loaded.info.degraded_reason is None
    assert loaded.weights is not None


def test_openvino_is_not_touched_if_torch_was_asked_for(options: EngineOptions) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(on_openvino=not_on_openvino), dataclasses.replace(options, engine="torch"))
    assert loaded.info.runtime == "torch"


def test_what_openvino_does_not_run_is_run_by_torch_and_the_log_says_why(
    options: EngineOptions, log: pytest.LogCaptureFixture
) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(on_openvino=not_on_openvino), options)

    assert (ran(loaded), loaded.info.runtime) == (("BiRefNet-lite+synthetic", "cpu"), "torch")
    assert [record.message for record in log.records if record.levelno == logging.WARNING] == [
        "BiRefNet: OpenVINO passed over: BiRefNet-lite+synthetic is not the same on OpenVINO.",
        "BiRefNet runs on synthetic weights: BiRefNet-lite.safetensors.",
    ]


def test_what_openvino_does_not_run_is_refused_if_openvino_was_asked_for(options: EngineOptions) -> None:
    write(options.models_dir, "lite")
    with pytest.raises(ModelNotLoaded, match="is not the same on OpenVINO"):
        load_best(task(on_openvino=not_on_openvino), dataclasses.replace(options, engine="openvino"))


def test_without_openvino_torch_runs(
    options: EngineOptions, log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    write(options.models_dir, "lite")
    loaded = load_best(task(on_openvino=on_openvino), options)

    assert loaded.info.runtime == "torch"
    assert any(message.startswith("BiRefNet: OpenVINO passed over: OpenVINO cannot be") for message in log.messages)


@pytest.mark.usefixtures("no_cuda")
def test_openvino_instead_of_a_gpu_says_so(options: EngineOptions) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(on_openvino=on_openvino), dataclasses.replace(options, has_gpu=True))

    assert loaded.info.runtime == "openvino"
    assert loaded.info.degraded_reason == f"Ray offers a GPU, but PyTorch {torch.__version__} sees none."


# --- TensorRT ---


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("engine", ["auto", "tensorrt"])
def test_tensorrt_goes_before_torch_on_the_gpu(options: EngineOptions, engine: EngineChoice) -> None:
    write(options.models_dir, "general")
    asked = dataclasses.replace(options, has_gpu=True, engine=engine)
    loaded = load_best(task(on_tensorrt=on_tensorrt), asked)

    assert ran(loaded) == ("BiRefNet-general+synthetic", "cuda")
    assert loaded.info.tensorrt
    assert loaded.info.degraded_reason is None
    assert loaded.weights is not None


@pytest.mark.usefixtures("cuda")
def test_without_an_engine_torch_runs_on_the_gpu_and_the_log_says_why(
    options: EngineOptions, log: pytest.LogCaptureFixture
) -> None:
    write(options.models_dir, "general")
    loaded = load_best(task(on_tensorrt=not_on_tensorrt), dataclasses.replace(options, has_gpu=True))

    assert (ran(loaded), loaded.info.tensorrt) == (("BiRefNet-general+synthetic", "cuda"), False)
    assert loaded.info.degraded_reason is None
    refusal = "BiRefNet-general+synthetic's TensorRT engine 'matting-1024x1024' was not built."
    assert f"BiRefNet: TensorRT passed over: {refusal}" in log.messages


@pytest.mark.usefixtures("cuda")
def test_without_an_engine_nothing_runs_if_tensorrt_was_asked_for(options: EngineOptions) -> None:
    write(options.models_dir, "general")
    with pytest.raises(ModelNotLoaded, match="was not built"):
        load_best(task(on_tensorrt=not_on_tensorrt), dataclasses.replace(options, has_gpu=True, engine="tensorrt"))


@pytest.mark.usefixtures("cuda")
def test_engines_that_do_not_fit_into_the_gpus_memory_leave_it_to_torch(
    options: EngineOptions, log: pytest.LogCaptureFixture
) -> None:
    def too_large(weights: VerifiedWeights) -> Engine:
        raise torch.OutOfMemoryError("CUDA out of memory: no room for the engine.")

    write(options.models_dir, "general")
    loaded = load_best(task(on_tensorrt=too_large), dataclasses.replace(options, has_gpu=True))
    assert not loaded.info.tensorrt
    assert any("engines do not fit into the GPU's memory" in message for message in log.messages)


def test_tensorrt_is_not_asked_without_a_share_of_a_gpu(options: EngineOptions, log: pytest.LogCaptureFixture) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(on_tensorrt=on_tensorrt), options)
    assert loaded.info.runtime == "torch"
    assert "BiRefNet: TensorRT passed over: BiRefNet has no share of a GPU." in log.messages


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("name", "load"), [("lite", load_matting), ("mobile-sam", load_segmentation), ("lama", load_inpainting)]
)
def test_every_model_has_a_rung_of_its_own_on_tensorrt(
    options: EngineOptions, name: str, load: Callable[[EngineOptions], Loaded[object]]
) -> None:
    write(options.models_dir, name)
    asked = dataclasses.replace(options, has_gpu=True, engine="tensorrt", variant="lite")
    with pytest.raises(ModelNotLoaded, match="TensorRT needs an NVIDIA GPU"):
        load(asked)


# --- engines that load and do not work ---


def fails_on(device: str, error: Exception) -> Callable[[Engine], None]:
    """A first work that only this device's network cannot do."""

    def warm_up(engine: Engine) -> None:
        if engine.info.device == device and "embedded" not in engine.info.model_version:
            raise error

    return warm_up


FAILURES = pytest.mark.parametrize(
    ("failure", "told"),
    [
        (InferenceError("No alpha."), "No alpha."),
        (Overloaded("Not enough memory."), "Not enough memory."),
        (GpuMemoryExhausted("Insufficient GPU memory"), "Insufficient GPU memory"),
        (MemoryError(), "There is not enough memory."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "There is not enough memory."),
    ],
    ids=lambda value: type(value).__name__,
)


@pytest.mark.usefixtures("cuda")
@FAILURES
def test_a_network_that_fails_on_the_gpu_runs_on_the_cpu_which_says_why(
    options: EngineOptions, log: pytest.LogCaptureFixture, failure: Exception, told: str
) -> None:
    write(options.models_dir, "general")
    write(options.models_dir, "lite")
    loaded = load_best(task(warm_up=fails_on("cuda", failure)), dataclasses.replace(options, has_gpu=True))

    assert ran(loaded) == ("BiRefNet-lite+synthetic", "cpu")
    assert loaded.info.degraded_reason == f"BiRefNet fails on PyTorch on the GPU: {told}"
    assert any(record.levelno == logging.WARNING and told in record.message for record in log.records)


@FAILURES
def test_a_network_that_fails_everywhere_leaves_the_work_to_the_embedded_engine(
    options: EngineOptions, failure: Exception, told: str
) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(warm_up=fails_on("cpu", failure)), options)

    assert ran(loaded) == ("embedded", "cpu")
    assert loaded.info.degraded_reason == (
        f"BiRefNet fails on PyTorch on the CPU: {told} The embedded engine runs instead."
    )


@FAILURES
def test_a_network_that_fails_is_refused_if_torch_was_asked_for(
    options: EngineOptions, failure: Exception, told: str
) -> None:
    write(options.models_dir, "lite")
    with pytest.raises(ModelNotLoaded, match=f"BiRefNet fails on PyTorch on the CPU: {told}"):
        load_best(task(warm_up=fails_on("cpu", failure)), dataclasses.replace(options, engine="torch"))


def test_any_other_failure_of_the_first_work_stops_the_start(options: EngineOptions) -> None:
    """Serve then tries again and reports it: a broken installation must not look like bad weights."""
    write(options.models_dir, "lite")
    with pytest.raises(RuntimeError, match="no kernel"):
        load_best(task(warm_up=fails_on("cpu", RuntimeError("no kernel"))), options)


# --- one engine or nothing ---


@pytest.mark.parametrize("engine", ["tensorrt", "torch", "openvino"])
def test_a_wanted_engine_without_weights_is_refused_with_the_files_name_and_not_its_folder(
    options: EngineOptions, engine: EngineChoice
) -> None:
    with pytest.raises(ModelNotLoaded) as refusal:
        load_best(task(cuda=("lite",)), dataclasses.replace(options, engine=engine))
    assert "BiRefNet-lite-4417d897.safetensors is missing" in refusal.value.detail
    assert str(options.models_dir) not in refusal.value.detail


@pytest.mark.parametrize(("engine", "name"), [("tensorrt", "TensorRT"), ("openvino", "OpenVINO")])
def test_an_engine_of_a_later_release_is_refused_even_with_weights(
    options: EngineOptions, engine: EngineChoice, name: str
) -> None:
    write(options.models_dir, "lite")
    with pytest.raises(ModelNotLoaded, match=f"does not run on {name} in this release"):
        load_best(task(cuda=("lite",)), dataclasses.replace(options, engine=engine))


# --- files that cannot be trusted ---


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change(path: Path) -> None:
    path.write_bytes(b"WEIGHTS")


def lose_sidecar(path: Path) -> None:
    sidecar_path(path).unlink()


def break_sidecar(path: Path) -> None:
    sidecar_path(path).write_text("{")


def make_for_another(path: Path) -> None:
    record(path, "general", "synthetic")


BROKEN = pytest.mark.parametrize("spoil", [truncate, change, lose_sidecar, break_sidecar, make_for_another])


@BROKEN
def test_a_file_that_cannot_be_trusted_leaves_the_work_to_the_embedded_engine_which_says_why(
    options: EngineOptions, log: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    spoil(write(options.models_dir, "lite"))
    loaded = load_best(task(), options)

    assert ran(loaded) == ("embedded", "cpu")
    reason = loaded.info.degraded_reason
    assert reason is not None
    assert reason.startswith("BiRefNet-lite.safetensors")
    assert reason.endswith("The embedded engine runs instead.")
    assert str(options.models_dir) not in reason
    (warning,) = [record.message for record in log.records if record.levelno == logging.WARNING]
    assert warning.startswith("BiRefNet: PyTorch on the CPU passed over: BiRefNet-lite.safetensors")


@BROKEN
def test_a_file_that_cannot_be_trusted_is_refused_if_torch_was_asked_for(
    options: EngineOptions, spoil: Callable[[Path], None]
) -> None:
    spoil(write(options.models_dir, "lite"))
    with pytest.raises(ModelNotLoaded, match=r"^BiRefNet-lite\.safetensors"):
        load_best(task(), dataclasses.replace(options, engine="torch"))


def test_a_file_that_cannot_be_read_counts_as_one_that_cannot_be_trusted(
    options: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> VerifiedWeights:
        raise PermissionError(errno.EACCES, "Permission denied", "/models/secret")

    write(options.models_dir, "lite")
    monkeypatch.setattr(ladder, "find_weights", fail)
    loaded = load_best(task(), options)
    assert ran(loaded) == ("embedded", "cpu")
    assert (loaded.info.degraded_reason or "").startswith("BiRefNet-lite's weights cannot be read: Permission denied.")


def test_inpainting_without_weights_runs_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.models.ladder import EngineOptions, load_inpainting; "
        f"load_inpainting(EngineOptions(models_dir=Path({str(tmp_path)!r}))); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_synthetic_weights_do_not_load_unless_that_is_allowed(options: EngineOptions) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(), dataclasses.replace(options, allow_unpinned=False))
    assert ran(loaded) == ("embedded", "cpu")


@pytest.mark.parametrize("load", [load_matting, load_segmentation, load_inpainting])
def test_a_file_with_another_content_than_the_networks_weights_never_runs(
    options: EngineOptions, load: Callable[[EngineOptions], Loaded[Engine]]
) -> None:
    for name in ("lite", "mobile-sam", "lama"):
        write(options.models_dir, name, b"no weights at all")

    loaded = load(options)
    assert loaded.weights is None
    assert "embedded" in loaded.info.model_version
    assert "cannot be read as safetensors" in (loaded.info.degraded_reason or "")
    with pytest.raises(ModelNotLoaded, match="cannot be read as safetensors"):
        load(dataclasses.replace(options, engine="torch"))


# --- a file named by the environment ---


def test_a_named_file_goes_before_those_in_the_folder(options: EngineOptions, tmp_path: Path) -> None:
    write(options.models_dir, "lite")
    (tmp_path / "mine").mkdir()
    mine = write(tmp_path / "mine", "lite", b"mine")
    loaded = load_best(task(), dataclasses.replace(options, weights_file=mine))

    assert loaded.weights is not None
    assert loaded.weights.path == mine


def test_a_named_file_that_is_missing_is_told_whatever_is_in_the_folder(options: EngineOptions) -> None:
    write(options.models_dir, "lite")
    loaded = load_best(task(), dataclasses.replace(options, weights_file=options.models_dir / "mine.safetensors"))

    assert ran(loaded) == ("embedded", "cpu")
    assert "mine.safetensors is missing" in (loaded.info.degraded_reason or "")


def test_the_variant_of_a_named_file_is_the_one_it_was_made_for(options: EngineOptions) -> None:
    mine = write(options.models_dir, "general")
    loaded = load_best(task(cpu=("lite", "general")), dataclasses.replace(options, weights_file=mine))

    assert ran(loaded) == ("BiRefNet-general+synthetic", "cpu")
    assert loaded.info.degraded_reason is None
