"""What the environment says, and what it leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import Settings


def test_weight_files_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIREFNET_MODEL_PATH", "/weights/mine.safetensors")
    monkeypatch.setenv("MOBILE_SAM_CHECKPOINT", "/weights/sam.safetensors")
    settings = Settings(_env_file=None)
    assert settings.birefnet_model_path == Path("/weights/mine.safetensors")
    assert settings.mobile_sam_checkpoint == Path("/weights/sam.safetensors")


def test_an_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIREFNET_MODEL_PATH", "")
    assert Settings(_env_file=None).birefnet_model_path is None
