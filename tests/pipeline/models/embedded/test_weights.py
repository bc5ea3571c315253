"""The shipped weights load strictly and answer as the network that was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipeline.errors import ModelNotLoaded
from pipeline.models.embedded.network import EmbeddedNetwork
from pipeline.models.embedded.weights import WEIGHTS_PATH, load_weights


def test_shipped_weights_are_small_and_say_what_they_are() -> None:
    assert WEIGHTS_PATH.stat().st_size <= 8_000_000
    trained = load_weights()
    assert trained.side_px % 32 == 0
    assert trained.version


def test_folding_batch_norms_changes_nothing() -> None:
    with safe_open(WEIGHTS_PATH, framework="pt") as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dictionary)
    plain = EmbeddedNetwork().eval()
    plain.load_state_dict(state, strict=False)
    pixels = torch.randint(0, 256, (1, 5, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(load_weights().network(pixels)[0], plain(pixels)[0], rtol=1e-3, atol=1e-3)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotLoaded):
        load_weights(tmp_path / "none.safetensors")


def test_a_file_with_a_tensor_too_few_is_refused(tmp_path: Path) -> None:
    with safe_open(WEIGHTS_PATH, framework="pt") as file:
        names = list(file.keys())
        state = {name: file.get_tensor(name) for name in names[1:]}
        metadata = file.metadata()
    save_file(state, tmp_path / "short.safetensors", metadata=metadata)
    with pytest.raises(ModelNotLoaded):
        load_weights(tmp_path / "short.safetensors")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ModelNotLoaded):
        load_weights(tmp_path / "broken.safetensors")
