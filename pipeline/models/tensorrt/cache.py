"""Engines on disk: named by all they depend on, and used only if the record beside them says that they were verified.

An engine is code that a GPU runs. It is loaded only if its bytes are those whose hash was recorded after its outputs
had been compared with PyTorch's.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ModelNotLoaded
from pipeline.models.export.specs import EXPORT_VERSION, GraphSpec
from pipeline.models.files import part_of, publish, sha256_of, write_whole
from pipeline.models.tensorrt.platform import Platform
from pipeline.models.weights import VerifiedWeights

REMEDY = "Run scripts/warmup_tensorrt.py"


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on.

    Attributes:
        model_version: What answers call the model.
        weights_sha256: Of the weight file.
        graph: The graph's name.
        precision: The graph's.
        batches: One optimisation profile each.
        platform: GPU and TensorRT.
        export_version: Of the code that wrote the graph.
    """

    model_version: str
    weights_sha256: str
    graph: str
    precision: str
    batches: tuple[int, ...]
    platform: Platform
    export_version: int = EXPORT_VERSION

    @property
    def file_name(self) -> str:
        """Readable, and different for any two keys."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        parts = (self.model_version, self.graph, self.precision, self.platform.gpu, f"trt{self.platform.tensorrt}")
        readable = "-".join(re.sub(r"[^A-Za-z0-9.+-]+", "_", part) for part in parts)
        return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.engine"


@dataclass(frozen=True)
class Latency:
    """How long one batch took from array to array, in milliseconds, and what it held.

    Attributes:
        memory_mib: Of the GPU, taken by the engine, its buffers and what it works in, up to this batch.
    """

    batch: int
    p50_ms: float
    p95_ms: float
    images_per_s: float
    memory_mib: float


@dataclass(frozen=True)
class EngineRecord:
    """What is known of an engine; the file beside it.

    Attributes:
        key: What it was built for.
        engine_sha256: Of the engine's file.
        verified: Whether every error was within its tolerance.
        errors: By what was compared, the largest over all batches.
        tolerances: Likewise.
        latencies: One for each batch.
    """

    key: EngineKey
    engine_sha256: str
    verified: bool
    errors: dict[str, float]
    tolerances: dict[str, float]
    latencies: list[Latency] = field(default_factory=list)


def key_of(weights: VerifiedWeights, spec: GraphSpec, platform: Platform) -> EngineKey:
    return EngineKey(weights.model_version, weights.sha256, spec.name, spec.precision, spec.batches, platform)


def engines_folder(weights: VerifiedWeights) -> Path:
    """Beside the weights, so that who owns one owns the other."""
    return weights.path.parent / "tensorrt"


def record_path(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}.json")


def store_engine(folder: Path, plan: bytes, record: EngineRecord) -> Path:
    """Writes an engine and then its record, each in one step: without a record an engine is not used."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / record.key.file_name
    record_path(path).unlink(missing_ok=True)  # never an old record beside a new engine
    part_of(path).write_bytes(plan)
    publish(part_of(path), path)
    write_whole(record_path(path), f"{json.dumps(dataclasses.asdict(record), indent=2)}\n".encode())
    return path


def find_engine(folder: Path, key: EngineKey) -> Path:
    """The engine for ``key``.

    Raises:
        ModelNotLoaded: There is none, or it may not be used; why, and what to do.
    """
    path = folder / key.file_name
    name = f"{key.model_version}'s TensorRT engine '{key.graph}'"
    if not path.is_file():
        where = f"{key.platform.gpu} and TensorRT {key.platform.tensorrt}"
        raise ModelNotLoaded(f"{name} was not built for {where}. {REMEDY}.")
    record = read_record(path)
    if record is None:
        raise ModelNotLoaded(f"{name} has no record of its verification. {REMEDY}.")
    if record.key != key:
        raise ModelNotLoaded(f"{name} was recorded for something else. {REMEDY} --rebuild.")
    if not record.verified:
        worst = max(record.errors, key=lambda what: record.errors[what] / record.tolerances[what], default="nothing")
        raise ModelNotLoaded(
            f"{name} failed its verification: {worst} is {record.errors.get(worst, 0):.3g} off, "
            f"{record.tolerances.get(worst, 0):.3g} is allowed."
        )
    if sha256_of(path) != record.engine_sha256:
        raise ModelNotLoaded(f"{name} was changed or damaged: its SHA-256 is not the recorded one. {REMEDY} --rebuild.")
    return path


def read_record(engine: Path) -> EngineRecord | None:
    """The record of an engine; None if it has none that can be read."""
    try:
        found = json.loads(record_path(engine).read_bytes())
        key = found.pop("key")
        key["platform"] = Platform(**key["platform"])
        key["batches"] = tuple(key["batches"])
        latencies = [Latency(**latency) for latency in found.pop("latencies")]
        record = EngineRecord(key=EngineKey(**key), latencies=latencies, **found)
        numbers = [*record.errors.values(), *record.tolerances.values()]
        tellable = record.errors.keys() == record.tolerances.keys() and all(isinstance(n, float) for n in numbers)
        return record if tellable and isinstance(record.verified, bool) else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
