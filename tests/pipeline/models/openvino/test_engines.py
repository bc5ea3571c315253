"""Small networks on OpenVINO: they do what PyTorch does, start from the cache, and refuse to do anything else."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.errors import ModelNotLoaded
from pipeline.models import torch_engines
from pipeline.models.ladder import EngineOptions, load_matting, load_segmentation
from pipeline.models.openvino import build, engines, facts
from pipeline.models.openvino.cache import Entry, folders
from pipeline.models.openvino.runtime import Precision, has_bfloat16
from pipeline.models.sidecar import record
from pipeline.models.weights import VerifiedWeights, verify_weights
from pipeline.models.zoo import VARIANTS
from pipeline.protocols import MattingEngine, SegmentationEngine
from pipeline.types import Image, Prompt
from tests.golden.goldens import give_synthetic_weights

ROOT = Path(__file__).resolve().parents[4]
PHOTO: Image = np.random.default_rng(3).integers(0, 256, (64, 96, 3), np.uint8)

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

WeightsOf = Callable[..., VerifiedWeights]


def matting(weights: VerifiedWeights, models_dir: Path) -> MattingEngine:
    return engines.matting(weights, models_dir=models_dir, threads=1, precision="float32")


def segmentation(weights: VerifiedWeights, models_dir: Path, precision: Precision = "float32") -> SegmentationEngine:
    return engines.segmentation(weights, models_dir=models_dir, threads=1, precision=precision)


def blob_in(folder: Path) -> Path:
    (blob,) = folder.glob("*.blob")
    return blob


@pytest.fixture
def compiled_in(tmp_path: Path) -> Path:
    return folders(tmp_path)[0]


@pytest.mark.usefixtures("builds")
def test_birefnet_is_what_it_is_on_torch(weights_of: WeightsOf, tmp_path: Path) -> None:
    weights = weights_of("lite")
    engine, reference = matting(weights, tmp_path), torch_engines.matting(weights, "cpu")

    assert (engine.info.model_version, engine.info.device) == ("BiRefNet-lite+synthetic", "cpu")
    assert (engine.info.input_size_hw, engine.info.runtime) == ((64, 96), "openvino")
    photos = [PHOTO, PHOTO[::-1].copy(), PHOTO[:, ::-1].copy()]
    expected = np.stack(reference.estimate_alpha(photos)).astype(int)
    assert expected.std() > 10
    assert np.abs(np.stack(engine.estimate_alpha(photos)) - expected).max() <= 1


@pytest.mark.usefixtures("builds")
def test_mobile_sam_is_what_it_is_on_torch(weights_of: WeightsOf, tmp_path: Path) -> None:
    weights = weights_of("mobile-sam")
    engine = segmentation(weights, tmp_path)
    reference = torch_engines.segmentation(weights, "cpu")
    prompt = Prompt(np.array([[30, 40]], np.float32), np.ones(1, np.uint8))
    embeddings, expected = engine.embed([PHOTO, PHOTO[::-1]]), reference.embed([PHOTO, PHOTO[::-1]])

    assert engine.info.runtime == "openvino"
    for ours, theirs in zip(embeddings, expected, strict=True):
        assert np.abs(ours.features - theirs.features).max() < 1e-4  # type: ignore[attr-defined]
    ours, theirs = (e.decode(m, [prompt] * 2) for e, m in ((engine, embeddings), (reference, expected)))
    for one, other in zip(ours, theirs, strict=True):
        assert np.abs(one.probabilities.astype(int) - other.probabilities).max() <= 1


def test_the_second_start_takes_the_compiled_model_and_leaves_the_weights_alone(
    weights_of: WeightsOf, builds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_of("lite")
    expected = matting(weights, tmp_path).estimate_alpha([PHOTO])[0]

    def fail(*args: object) -> nn.Module:
        raise AssertionError("the network was made")

    monkeypatch.setattr(torch_engines, "birefnet", fail)
    weights.path.unlink()
    assert np.array_equal(matting(weights, tmp_path).estimate_alpha([PHOTO])[0], expected)
    assert builds == ["BiRefNet-lite+synthetic"]


def truncate(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:-1])


def change(blob: Path) -> None:
    blob.write_bytes(blob.read_bytes().swapcase())


def empty(blob: Path) -> None:
    blob.write_bytes(b"")


def break_record(blob: Path) -> None:
    blob.with_suffix(".json").write_text("{")


def lose_record(blob: Path) -> None:
    blob.with_suffix(".json").unlink()


def tell_of_another(blob: Path) -> None:
    record = blob.with_suffix(".json")
    record.write_text(record.read_text().replace('"precision": "float32"', '"precision": "bfloat16"'))


@pytest.mark.parametrize("spoil", [truncate, change, empty, break_record, lose_record, tell_of_another, Path.unlink])
def test_a_broken_or_foreign_entry_is_built_again(
    weights_of: WeightsOf, builds: list[str], tmp_path: Path, compiled_in: Path, spoil: Callable[[Path], None]
) -> None:
    weights = weights_of("lite")
    expected = matting(weights, tmp_path).estimate_alpha([PHOTO])[0]
    spoil(blob_in(compiled_in))

    assert np.array_equal(matting(weights, tmp_path).estimate_alpha([PHOTO])[0], expected)
    assert len(builds) == 2
    matting(weights, tmp_path)
    assert len(builds) == 2


def test_other_weights_are_another_entry(
    weights_of: WeightsOf, builds: list[str], tmp_path: Path, compiled_in: Path
) -> None:
    engines_of = [segmentation(weights_of("mobile-sam", scale=scale), tmp_path) for scale in (1, 0.5, 1)]
    features = [engine.embed([PHOTO])[0].features for engine in engines_of]  # type: ignore[attr-defined]

    assert len(builds) == 2
    assert len(list(compiled_in.glob("*.blob"))) == 2
    assert np.array_equal(features[0], features[2])
    assert not np.array_equal(features[0], features[1])


def test_another_cpu_builds_anew(
    weights_of: WeightsOf, builds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = weights_of("lite")
    matting(weights, tmp_path)
    monkeypatch.setattr(facts, "cpu", lambda: "another")
    matting(weights, tmp_path)
    assert len(builds) == 2


@pytest.fixture
def wrongly_converted(monkeypatch: pytest.MonkeyPatch, built_before: dict[tuple[str, str], Entry]) -> Iterator[None]:
    """The compiled network answers a little too much."""
    rightly_built = dict(built_before)
    built_before.clear()
    convert = build.convert

    class Louder(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return torch.mul(self.network(x), 1.002)

    monkeypatch.setattr(build, "convert", lambda network, x: convert(Louder(network).eval(), x))
    yield
    built_before.update(rightly_built)


@pytest.mark.usefixtures("wrongly_converted")
def test_what_is_not_the_same_is_refused_and_that_is_remembered(
    weights_of: WeightsOf, builds: list[str], tmp_path: Path
) -> None:
    weights = weights_of("mobile-sam")
    for _ in range(2):
        with pytest.raises(ModelNotLoaded, match=r"differ by 2\.0e-03 of their size, and 1e-03 is allowed"):
            segmentation(weights, tmp_path)
    assert len(builds) == 1


@pytest.mark.usefixtures("builds", "wrongly_converted")
def test_where_openvino_is_not_the_same_torch_runs_and_the_log_says_why(
    weights_of: WeightsOf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weights_of("mobile-sam")
    threads = torch.get_num_threads()
    loaded = load_segmentation(EngineOptions(models_dir=tmp_path, allow_unpinned=True, threads=threads))

    assert loaded.info.runtime == "torch"
    assert "MobileSAM: OpenVINO passed over: MobileSAM+synthetic on OpenVINO is not what it is" in caplog.text
    assert [r.levelno for r in caplog.records if "OpenVINO passed over" in r.message] == [logging.WARNING]


@pytest.mark.usefixtures("builds")
def test_through_the_ladder_openvino_runs(weights_of: WeightsOf, tmp_path: Path) -> None:
    weights_of("mobile-sam")
    threads = torch.get_num_threads()
    loaded = load_segmentation(EngineOptions(models_dir=tmp_path, allow_unpinned=True, threads=threads))
    assert (loaded.info.runtime, loaded.info.degraded_reason) == ("openvino", None)


def test_without_a_place_beside_the_weights_the_users_cache_serves(
    weights_of: WeightsOf, builds: list[str], tmp_path: Path, compiled_in: Path, own_user_cache: Path
) -> None:
    weights = weights_of("lite")
    compiled_in.write_text("a file where the folder should be")
    for _ in range(2):
        matting(weights, tmp_path)
    assert blob_in(own_user_cache).stat().st_size > 0
    assert len(builds) == 1


def test_without_any_place_it_runs_all_the_same(
    weights_of: WeightsOf, builds: list[str], tmp_path: Path, compiled_in: Path, own_user_cache: Path
) -> None:
    weights = weights_of("lite")
    own_user_cache.parent.mkdir(parents=True)
    for place in (compiled_in, own_user_cache):
        place.write_text("a file where the folder should be")
    for _ in range(2):
        assert matting(weights, tmp_path).estimate_alpha([PHOTO])[0].std() > 10
    assert len(builds) == 2


@pytest.mark.usefixtures("builds")
@pytest.mark.skipif(not has_bfloat16(), reason="this CPU does not compute in bfloat16")
def test_bfloat16_is_another_entry_and_comes_near(weights_of: WeightsOf, tmp_path: Path, compiled_in: Path) -> None:
    weights = weights_of("mobile-sam")
    exact, rough = (
        segmentation(weights, tmp_path, precision).embed([PHOTO])[0].features  # type: ignore[attr-defined]
        for precision in PRECISIONS
    )
    assert len(list(compiled_in.glob("*.blob"))) == 2
    assert 1e-4 < np.abs(exact - rough).max() < 0.1 * np.abs(exact).max()


def test_bfloat16_is_refused_where_the_cpu_has_none(
    weights_of: WeightsOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "has_bfloat16", lambda: False)
    with pytest.raises(ModelNotLoaded, match="does not compute in bfloat16"):
        engines.matting(weights_of("lite"), models_dir=tmp_path, threads=1, precision="bfloat16")


def test_a_build_apart_tells_why_it_failed(tmp_path: Path) -> None:
    path = tmp_path / VARIANTS["lite"].unpinned_file_name
    path.write_bytes(b"no weights at all")
    record(path, "lite", "custom")
    weights = verify_weights(path, VARIANTS["lite"], allow_unpinned=True)
    with pytest.raises(ModelNotLoaded, match="cannot be read as safetensors"):
        build.build_apart(weights, "float32", 1, tmp_path)


def test_a_build_apart_ends_with_who_wanted_it(tmp_path: Path) -> None:
    order = {"path": "", "variant": "lite", "precision": "float32", "threads": 1, "folder": "", "parent": -1}
    code = (
        "import time; from pipeline.models.openvino import build; "
        "build.verify_weights = lambda *_, **__: time.sleep(60); raise SystemExit(build._main())"
    )
    ended = subprocess.run([sys.executable, "-c", code], input=json.dumps(order), text=True, cwd=ROOT, timeout=50)
    assert ended.returncode == build.ORPHANED


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_of_lite_comes_through_the_ladder_and_then_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = torch_engines.network_of(VARIANTS["lite"])
    give_synthetic_weights(network)
    path = tmp_path / VARIANTS["lite"].unpinned_file_name
    save_file(network.state_dict(), path)
    record(path, "lite", "synthetic")
    options = EngineOptions(models_dir=tmp_path, allow_unpinned=True, threads=torch.get_num_threads())
    photo = np.random.default_rng(1).integers(0, 256, (1024, 1024, 3), np.uint8)

    first = load_matting(options)
    assert (first.info.runtime, first.info.degraded_reason) == ("openvino", None)
    alpha = first.engine.estimate_alpha([photo])[0]
    reference = load_matting(dataclasses.replace(options, engine="torch")).engine.estimate_alpha([photo])[0]
    assert np.abs(alpha.astype(int) - reference).mean() / 255 <= 1e-4

    def fail(*args: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(engines, "build_apart", fail)
    assert np.array_equal(load_matting(options).engine.estimate_alpha([photo])[0], alpha)
