from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipeline.errors import ModelNotLoaded
from pipeline.models.zoo import VARIANTS
from scripts import verify_onnx
from scripts.verify_onnx import Row, network_for, report, verify
from tests.pipeline.models.export import small


def test_a_network_is_exported_compared_and_looked_through(tmp_path: Path) -> None:
    rows = verify(VARIANTS["lama"], small.INPAINTING, small.lama, engine_precision=True, save=tmp_path)
    assert [row.what for row in rows] == ["operators", "pictures", "means", "picture", "operators, fp16-fft32"]
    assert all(row.passed for row in rows), report(rows)
    assert [path.name for path in tmp_path.iterdir()] == ["LaMa-inpainting-64.onnx"]


def test_an_error_beyond_its_tolerance_or_none_at_all_is_no_success() -> None:
    assert not Row("lama x", "picture", 3e-5, 2e-5).passed
    assert not Row("lama x", "picture", math.nan, 2e-5).passed
    assert Row("lama x", "operators", 0, 0).passed
    passed, failed = report([Row("a", "b", 1.0, 1.0), Row("a", "b", 2.0, 1.0)]).splitlines()[1:]
    assert not passed.endswith("FAILED")
    assert failed.endswith("FAILED")


def test_no_graph_at_all_is_no_success(tmp_path: Path) -> None:
    assert verify_onnx.main(["lama", "--graph", "inpainting-7", "--models-dir", str(tmp_path)]) == 1


def test_an_unknown_name_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        verify_onnx.main(["dream"])
    assert "there is no dream" in capsys.readouterr().err


def test_weights_that_are_there_and_wrong_are_not_replaced_by_made_up_ones(tmp_path: Path) -> None:
    (tmp_path / VARIANTS["lama"].unpinned_file_name).write_bytes(b"damaged")
    with pytest.raises(ModelNotLoaded):
        network_for(VARIANTS["lama"], tmp_path)
