"""What the environment says, and what it leaves open."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

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


@pytest.mark.parametrize("name", ["RATE_LIMIT_PER_MINUTE", "BIREFNET_RATE_LIMIT_PER_MINUTE"])
def test_the_rate_limit_has_two_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "7")
    assert Settings(_env_file=None).rate_limit_per_minute == 7


def test_a_proxys_network_that_is_none_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.300")
    with pytest.raises(ValidationError, match=r"10\.0\.0\.300"):
        Settings(_env_file=None)
