"""Small networks, their weight files, and builds in this process, where the networks are small too."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.models import torch_engines
from pipeline.models.birefnet.shape import TINY
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.openvino import engines
from pipeline.models.openvino.build import build
from pipeline.models.openvino.cache import CompiledModels, Entry
from pipeline.models.openvino.facts import facts_of
from pipeline.models.openvino.runtime import Precision
from pipeline.models.sidecar import record
from pipeline.models.torch_engines import network_of
from pipeline.models.weights import VerifiedWeights, verify_weights
from pipeline.models.zoo import VARIANTS
from tests.golden.goldens import give_synthetic_weights
from tests.pipeline.models.mobile_sam.conftest import SHAPE as SMALL


@pytest.fixture(autouse=True)
def own_user_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "user" / "clearcut" / "compiled"


@pytest.fixture
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_engines.SHAPES, "swin_v1_t", TINY)
    monkeypatch.setattr(torch_engines, "MobileSam", partial(MobileSam, SMALL))


@pytest.fixture(scope="session")
def built_before() -> dict[tuple[str, str], Entry]:
    """What was built in earlier tests; a build takes seconds, even of small networks."""
    return {}


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, built_before: dict[tuple[str, str], Entry]) -> list[str]:
    """The model versions built so far in this test, in order. They are built in this process."""
    built: list[str] = []

    def build_here(weights: VerifiedWeights, precision: Precision, threads: int, folder: Path) -> None:
        built.append(weights.model_version)
        models, name, facts = CompiledModels(folder), weights.model_version, facts_of(weights, precision)
        key = weights.sha256, precision
        if key in built_before:
            models.add(name, facts, built_before[key])
            return
        build(weights, precision, torch.get_num_threads(), folder)
        if (entry := models.find(name, facts)) and entry.verification.passed:
            built_before[key] = entry

    monkeypatch.setattr(engines, "build_apart", build_here)
    return built


@pytest.fixture
def weights_of(tmp_path: Path, small_networks: None) -> Callable[..., VerifiedWeights]:
    """Verified synthetic weights of variant ``name``, for images of 64 x 96; ``scale`` makes others of them."""

    def write(name: str, *, scale: float = 1) -> VerifiedWeights:
        network = network_of(VARIANTS[name])
        give_synthetic_weights(network)
        state = {key: t * scale if t.is_floating_point() else t for key, t in network.state_dict().items()}
        path = tmp_path / VARIANTS[name].unpinned_file_name
        save_file(state, path)
        record(path, name, "synthetic")
        return verify_weights(path, dataclasses.replace(VARIANTS[name], input_size_hw=(64, 96)), allow_unpinned=True)

    return write
