"""Synthetic weights are the same everywhere, and load only where they are allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from pipeline.errors import ModelNotLoaded
from pipeline.models.weights import find_weights, load_weights
from pipeline.models.zoo import VARIANTS
from scripts import write_synthetic_weights
from tests.golden.goldens import give_synthetic_weights


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))


@pytest.fixture(autouse=True)
def small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_synthetic_weights, "network_of", lambda variant: small())


def test_the_default_set_is_written_under_the_zoos_names(tmp_path: Path) -> None:
    write_synthetic_weights.main(["--models-dir", str(tmp_path / "models")])
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == [
        "BiRefNet-lite.safetensors",
        "BiRefNet-lite.safetensors.json",
        "LaMa.safetensors",
        "LaMa.safetensors.json",
        "MobileSAM.safetensors",
        "MobileSAM.safetensors.json",
    ]


def test_what_is_written_loads_only_if_that_is_allowed(tmp_path: Path) -> None:
    write_synthetic_weights.main(["lama", "--models-dir", str(tmp_path)])
    found = find_weights(tmp_path, VARIANTS["lama"], allow_unpinned=True)
    assert (found.origin, found.model_version) == ("synthetic", "LaMa+synthetic")
    with pytest.raises(ModelNotLoaded):
        find_weights(tmp_path, VARIANTS["lama"])


def test_values_are_those_of_the_goldens(tmp_path: Path) -> None:
    write_synthetic_weights.main(["lama", "--models-dir", str(tmp_path)])
    loaded, expected = small(), small()
    load_weights(loaded, find_weights(tmp_path, VARIANTS["lama"], allow_unpinned=True))
    give_synthetic_weights(expected)
    for name, tensor in expected.state_dict().items():
        assert tensor.equal(loaded.state_dict()[name]), name


def test_an_unknown_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        write_synthetic_weights.main(["lamb", "--models-dir", str(tmp_path)])
    assert "there is no lamb" in capsys.readouterr().err
