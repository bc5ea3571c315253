"""What the model deployments share: an engine that is warm, or the reason why there is none."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
import torch

from deployments.batching import BatchOptions
from deployments.model_replica import ModelReplica
from pipeline.errors import ModelNotLoaded
from pipeline.models.ladder import Loaded
from pipeline.models.weights import VerifiedWeights
from pipeline.models.zoo import VARIANTS
from pipeline.types import EngineInfo


class Engine:
    """Knows only what it is."""

    def __init__(self) -> None:
        self.info = EngineInfo("stub", "cpu", (32, 48))


def load() -> Loaded[Engine]:
    return Loaded(Engine())


def refuse() -> Loaded[Engine]:
    raise ModelNotLoaded("BiRefNet has no weights for engine 'torch'.")


def test_a_replica_tells_what_it_runs() -> None:
    status = ModelReplica("BiRefNet", load).status()
    assert (status.info, status.error) == (EngineInfo("stub", "cpu", (32, 48)), None)


@pytest.mark.parametrize("tensorrt", [False, True])
def test_a_replica_tells_which_files_it_runs_on(tensorrt: bool) -> None:
    engine = Engine()
    engine.info = dataclasses.replace(engine.info, tensorrt=tensorrt)
    loaded = Loaded(engine, VerifiedWeights(Path("a.safetensors"), VARIANTS["lite"], "official", "0"))
    status = ModelReplica("BiRefNet", lambda: loaded).status()
    assert status.files == {"checkpoint": True, "config": True, "tensorrt_engine": tensorrt}


def test_a_replica_without_weights_has_no_files() -> None:
    status = ModelReplica("BiRefNet", load).status()
    assert set(status.files.values()) == {False}


def test_a_replica_on_a_gpu_tells_how_much_of_its_memory_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (12 * 2**30, 16 * 2**30))
    engine = Engine()
    engine.info = dataclasses.replace(engine.info, device="cuda")
    status = ModelReplica("BiRefNet", lambda: Loaded(engine)).status()
    assert status.gpu_memory_free_mb == 12288


def test_a_replica_tells_why_no_better_engine_runs() -> None:
    status = ModelReplica("BiRefNet", lambda: Loaded(Engine(), degraded_reason="No GPU.")).status()
    assert status.info is not None
    assert status.info.degraded_reason == "No GPU."


def test_what_the_library_logs_stands_in_the_replicas_log(service_log: pytest.LogCaptureFixture) -> None:
    def load_and_log() -> Loaded[Engine]:
        logging.getLogger("pipeline.models.ladder").info("Passed over.")
        return load()

    ModelReplica("BiRefNet", load_and_log)
    assert "Passed over." in service_log.messages


def test_a_wanted_engine_that_cannot_run_leaves_the_replica_up_with_the_reason() -> None:
    status = ModelReplica("BiRefNet", refuse).status()
    assert (status.info, status.error) == (None, "BiRefNet has no weights for engine 'torch'.")


def test_asking_a_replica_without_an_engine_says_why() -> None:
    replica = ModelReplica("BiRefNet", refuse)
    with pytest.raises(ModelNotLoaded, match="no weights for engine 'torch'"):
        _ = replica.engine


def test_any_other_failure_stops_the_start() -> None:
    """Serve then tries again and reports it: a broken installation must not look like missing weights."""

    def fail() -> Loaded[Engine]:
        raise OSError("libcudnn.so")

    with pytest.raises(OSError, match="libcudnn"):
        ModelReplica("BiRefNet", fail)


def test_a_new_configuration_reaches_the_gate() -> None:
    replica = ModelReplica("BiRefNet", load)
    replica.configure(BatchOptions(stuck_after_s=7))
    assert replica.gate.stuck_after_s == 7
