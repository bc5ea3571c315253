"""No engine runs that was built for something else, was not verified, or was changed since."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import ModelNotLoaded
from pipeline.models.export.specs import graphs_of
from pipeline.models.tensorrt.cache import (
    EngineKey,
    EngineRecord,
    Latency,
    engines_folder,
    find_engine,
    key_of,
    read_record,
    record_path,
    store_engine,
)
from pipeline.models.tensorrt.platform import Platform
from pipeline.models.weights import VerifiedWeights
from pipeline.models.zoo import VARIANTS

PLATFORM = Platform("NVIDIA H200", "9.0", "11.4.0.106")
KEY = EngineKey("BiRefNet-lite", "ab" * 32, "matting-1024x1024", "fp16", (1, 2, 4, 8), PLATFORM)
PLAN = b"an engine's bytes"


def record(key: EngineKey = KEY, *, error: float = 0.001, plan: bytes = PLAN) -> EngineRecord:
    return EngineRecord(
        key,
        hashlib.sha256(plan).hexdigest(),
        error <= 0.002,
        {"alpha's mean error": error},
        {"alpha's mean error": 0.002},
        [Latency(1, 10.0, 11.0, 100.0, 512.0)],
    )


def test_a_stored_engine_is_found_with_its_record(tmp_path: Path) -> None:
    path = store_engine(tmp_path / "tensorrt", PLAN, record())
    assert find_engine(tmp_path / "tensorrt", KEY) == path
    assert path.read_bytes() == PLAN
    assert read_record(path) == record()
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, record_path(path).name])


@pytest.mark.parametrize(
    "change",
    [
        {"model_version": "BiRefNet-lite+synthetic"},
        {"weights_sha256": "cd" * 32},
        {"graph": "matting-512x512"},
        {"precision": "tf32"},
        {"batches": (1, 2)},
        {"platform": Platform("NVIDIA L4", "9.0", "11.4.0.106")},
        {"platform": Platform("NVIDIA H200", "9.1", "11.4.0.106")},
        {"platform": Platform("NVIDIA H200", "9.0", "11.5.0.1")},
        {"export_version": 0},
    ],
)
def test_an_engine_for_anything_else_has_another_name(tmp_path: Path, change: dict[str, object]) -> None:
    other = dataclasses.replace(KEY, **change)
    assert other.file_name != KEY.file_name
    store_engine(tmp_path, PLAN, record(other))
    with pytest.raises(ModelNotLoaded, match=r"was not built for NVIDIA H200 and TensorRT 11\.4.*warmup_tensorrt"):
        find_engine(tmp_path, KEY)


def test_names_of_gpus_make_no_folders() -> None:
    key = dataclasses.replace(KEY, platform=Platform("../Tesla T4 / 16", "7.5", "10.0"))
    assert Path(key.file_name).name == key.file_name
    assert " " not in key.file_name


def test_an_engine_without_a_record_is_not_used(tmp_path: Path) -> None:
    record_path(store_engine(tmp_path, PLAN, record())).unlink()
    with pytest.raises(ModelNotLoaded, match="no record of its verification"):
        find_engine(tmp_path, KEY)


@pytest.mark.parametrize("error", [0.01, float("nan"), float("inf")])
def test_an_engine_that_failed_its_verification_is_not_used(tmp_path: Path, error: float) -> None:
    store_engine(tmp_path, PLAN, record(error=error))
    with pytest.raises(
        ModelNotLoaded, match=r"failed its verification: alpha's mean error is .* off, 0\.002 is allowed"
    ):
        find_engine(tmp_path, KEY)


def test_a_changed_engine_is_not_used(tmp_path: Path) -> None:
    store_engine(tmp_path, PLAN, record()).write_bytes(PLAN + b"!")
    with pytest.raises(ModelNotLoaded, match="SHA-256"):
        find_engine(tmp_path, KEY)


def test_a_record_of_another_engine_does_not_count(tmp_path: Path) -> None:
    path = store_engine(tmp_path, PLAN, record())
    theirs = store_engine(tmp_path, PLAN, record(dataclasses.replace(KEY, weights_sha256="cd" * 32)))
    record_path(path).write_bytes(record_path(theirs).read_bytes())
    with pytest.raises(ModelNotLoaded, match="recorded for something else"):
        find_engine(tmp_path, KEY)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: json.dumps({**json.loads(text), "verified": "yes"}),
        lambda text: json.dumps({**json.loads(text), "tolerances": {}}),
        lambda text: json.dumps({**json.loads(text), "more": 1}),
        lambda text: json.dumps({name: value for name, value in json.loads(text).items() if name != "engine_sha256"}),
    ],
)
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, damage: object) -> None:
    path = store_engine(tmp_path, PLAN, record())
    assert callable(damage)
    record_path(path).write_text(damage(record_path(path).read_text()))
    assert read_record(path) is None
    with pytest.raises(ModelNotLoaded, match="no record"):
        find_engine(tmp_path, KEY)


def test_an_engine_that_replaces_another_never_has_the_old_record(tmp_path: Path) -> None:
    store_engine(tmp_path, PLAN, record())
    with pytest.raises(TypeError):  # what is no bytes cannot be written: the power fails here, so to speak
        store_engine(tmp_path, None, record())  # type: ignore[arg-type]
    with pytest.raises(ModelNotLoaded, match="no record"):
        find_engine(tmp_path, KEY)


def test_engines_lie_beside_their_weights_and_are_named_by_them(tmp_path: Path) -> None:
    weights = VerifiedWeights(tmp_path / "BiRefNet-lite.safetensors", VARIANTS["lite"], "synthetic", "ef" * 32)
    (spec,) = graphs_of(VARIANTS["lite"])
    key = key_of(weights, spec, PLATFORM)
    assert engines_folder(weights) == tmp_path / "tensorrt"
    assert (key.weights_sha256, key.model_version) == ("ef" * 32, "BiRefNet-lite+synthetic")
    assert key.file_name.startswith("BiRefNet-lite+synthetic-matting-1024x1024-fp16-NVIDIA_H200-trt11.4.0.106-")


def test_looking_for_an_engine_needs_neither_torch_nor_tensorrt() -> None:
    code = (
        "import sys; import pipeline.models.tensorrt.cache; print({'torch', 'tensorrt', 'pycuda'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
