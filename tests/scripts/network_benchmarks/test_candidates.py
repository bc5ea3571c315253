from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.errors import ModelNotLoaded
from pipeline.models import torch_engines
from pipeline.models.ladder import EngineOptions
from pipeline.models.weights import find_weights
from pipeline.models.zoo import VARIANTS
from scripts.network_benchmarks import cpu
from scripts.network_benchmarks.candidates import BASELINE, Candidate, load
from scripts.network_benchmarks.cases import MattingCase
from scripts.network_benchmarks.cpu import CpuOptions, measure_case
from scripts.network_benchmarks.model_files import AMPLIFYING, find_or_write, link_into, lower_gains
from scripts.network_benchmarks.quick import add_tiny_birefnet
from scripts.network_benchmarks.torch_candidates import load_network

TORCH = Candidate("torch")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch_engines, "SHAPES", dict(torch_engines.SHAPES))
    add_tiny_birefnet()
    yield
    del VARIANTS["tiny"]


@pytest.mark.parametrize(
    ("text", "candidate"),
    [
        ("torch", TORCH),
        ("openvino:bf16", Candidate("openvino", "bfloat16")),
        ("openvino:float32", Candidate("openvino", "float32")),
    ],
)
def test_a_candidate_is_written_as_engine_and_precision(text: str, candidate: Candidate) -> None:
    assert Candidate.parse(text) == candidate


@pytest.mark.parametrize("text", ["", "eager", "openvivo", "torch:int8"])
def test_what_is_no_engine_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no engine"):
        Candidate.parse(text)


def test_made_up_weights_are_written_only_where_there_are_none(tmp_path: Path) -> None:
    first = find_or_write(VARIANTS["tiny"], tmp_path)
    assert first.origin == "synthetic"
    first.path.write_bytes(b"something else")
    with pytest.raises(ModelNotLoaded, match="damaged"):
        find_or_write(VARIANTS["tiny"], tmp_path)
    assert first.path.read_bytes() == b"something else"


def test_engines_find_the_weights_in_a_folder_of_their_own(tmp_path: Path) -> None:
    weights = find_or_write(VARIANTS["tiny"], tmp_path)
    (tmp_path / "own").mkdir()
    link_into(weights, tmp_path / "own")
    found = find_weights(tmp_path / "own", VARIANTS["tiny"], allow_unpinned=True)
    assert (found.sha256, found.path.parent) == (weights.sha256, tmp_path / "own")


def test_lower_gains_touch_the_amplifying_convolutions_only(tmp_path: Path) -> None:
    weights = find_or_write(VARIANTS["tiny"], tmp_path / "as they are")
    lower = lower_gains(weights, 0.5, tmp_path / "lower")
    before, after = (load_network(w).state_dict() for w in (weights, lower))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name, tensor in before.items() if tensor.ndim > 1 and name.startswith(AMPLIFYING)}
    assert any(name.startswith("decoder.decoder_block1.") for name in changed)
    for name in changed:
        torch.testing.assert_close(after[name], before[name] / 2)


def test_trained_weights_keep_their_gains(tmp_path: Path) -> None:
    weights = find_or_write(VARIANTS["tiny"], tmp_path)
    sidecar = weights.path.with_name(f"{weights.path.name}.json")
    sidecar.write_text(sidecar.read_text().replace("synthetic", "custom"))
    with pytest.raises(ModelNotLoaded, match="no synthetic"):
        lower_gains(find_weights(tmp_path, VARIANTS["tiny"], allow_unpinned=True), 0.5, tmp_path / "lower")


@pytest.mark.parametrize("candidate", [BASELINE, TORCH, Candidate("torch", "bfloat16")], ids=str)
def test_engines_take_the_case_and_are_near_the_straightforward_one(candidate: Candidate, tmp_path: Path) -> None:
    find_or_write(VARIANTS["tiny"], tmp_path)
    case = MattingCase("tiny", rounds=1, baseline_s=1)
    options = EngineOptions(threads=1, models_dir=tmp_path, allow_unpinned=True)
    answers = [case.answer(load("tiny", one, options)) for one in (BASELINE, candidate)]
    (figure,) = case.figures(*answers, is_float32=True)
    assert answers[0].std() > 0.01
    assert figure.value < (0.01 if candidate.precision == "bfloat16" else 1e-4)


def test_a_case_tells_of_engines_that_do_not_run(tmp_path: Path) -> None:
    options = CpuOptions(tmp_path, threads=1, rounds=2, starts=0)
    tensorrt = Candidate("tensorrt")
    told: list[str] = []
    report = measure_case("lite", MattingCase("tiny", 2, 1), [TORCH, tensorrt], options, told.append)
    baseline, torch_result, refused = report.results
    assert baseline.speedup is not None
    assert baseline.speedup.median == 1
    assert torch_result.is_faithful
    assert len(torch_result.seconds) == 2
    assert refused.refusal == "BiRefNet has no share of a GPU."
    assert told.count("round") == 4


def test_half_precision_is_judged_at_lower_gains(tmp_path: Path) -> None:
    options = CpuOptions(tmp_path, threads=1, rounds=1, starts=0, half_gain=0.5)
    half = Candidate("torch", "bfloat16")
    report = measure_case("lite", MattingCase("tiny", 1, 1), [TORCH, half], options, lambda what: None)
    _, exact, judged = report.results
    assert [figure.name for figure in exact.figures] == ["alpha MAE"]
    error, spread = judged.figures
    assert (error.name, error.limit) == ("alpha MAE at gains x0.5", 0.002)
    assert exact.figures[0].value < error.value < spread.value


def test_nothing_is_left_beside_the_weights(tmp_path: Path) -> None:
    options = CpuOptions(tmp_path, threads=1, rounds=1, starts=0)
    measure_case("lite", MattingCase("tiny", 1, 1), [Candidate("torch", "bfloat16")], options, lambda what: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "BiRefNet-tiny.safetensors",
        "BiRefNet-tiny.safetensors.json",
    ]


def test_the_straightforward_network_is_loaded_once_for_each_set_of_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Candidate] = []

    def counting(variant: str, candidate: Candidate, options: EngineOptions) -> object:
        loaded.append(candidate)
        return load(variant, candidate, options)

    monkeypatch.setattr(cpu, "load", counting)
    half = Candidate("torch", "bfloat16")
    options = CpuOptions(tmp_path, threads=1, rounds=1, starts=0)
    measure_case("lite", MattingCase("tiny", 1, 1), [TORCH], options, lambda what: None)
    assert loaded == [BASELINE, TORCH]
    measure_case("lite", MattingCase("tiny", 1, 1), [half], options, lambda what: None)
    assert loaded[2:] == [BASELINE, half, BASELINE]
