"""Pickles and TorchScript become safetensors with the same numbers; nothing runs that was not pinned."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.errors import ModelNotLoaded
from pipeline.models import convert
from pipeline.models.convert import convert_to_safetensors
from pipeline.models.sidecar import Sidecar, read_sidecar
from pipeline.models.zoo import FileFormat
from tests.pipeline.models.weight_files import Training, save_script, small


def converted(
    source: Path, format: FileFormat = "pickle", *, pin: str | None = None, to: str = "out.safetensors"
) -> dict[str, torch.Tensor]:
    target = source.with_name(to)
    convert_to_safetensors(source, target, format=format, variant="small", origin="official", pin=pin)
    return load_file(target)


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def assert_same(tensors: dict[str, torch.Tensor], network: nn.Module, prefix: str = "") -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        assert tensors[name].dtype == tensor.dtype
        assert torch.equal(tensors[name], tensor)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"epoch": 3, "state_dict": s, "callbacks": {"best": {}}}])
def test_a_pickled_state_keeps_every_tensor(tmp_path: Path, wrap: object) -> None:
    assert callable(wrap)
    torch.save(wrap(small().state_dict()), tmp_path / "a.pt")

    assert_same(converted(tmp_path / "a.pt"), small())


def test_half_precision_stays_half_precision(tmp_path: Path) -> None:
    torch.save(small().half().state_dict(), tmp_path / "a.pt")

    assert_same(converted(tmp_path / "a.pt"), small().half())


def test_tensors_that_share_memory_are_taken_apart(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    torch.save({"a": shared, "b": shared.view(2, 3).T}, tmp_path / "a.pt")

    tensors = converted(tmp_path / "a.pt")

    assert torch.equal(tensors["b"], shared.view(2, 3).T)


def test_a_script_keeps_every_tensor(tmp_path: Path) -> None:
    module = Training(small())
    save_script(module, tmp_path / "a.pt")

    assert_same(converted(tmp_path / "a.pt", "torchscript", pin=hash_of(tmp_path / "a.pt")), module)


@pytest.mark.parametrize("pin", ["0" * 64, None])
def test_a_script_is_not_opened_unless_its_hash_is_the_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pin: str | None
) -> None:
    def opened(data: bytes) -> object:
        raise AssertionError("The script was opened.")

    save_script(small(), tmp_path / "a.pt")
    monkeypatch.setattr(convert, "_torchscript_tensors", opened)

    with pytest.raises(ModelNotLoaded, match=r"not the published file|TorchScript program"):
        converted(tmp_path / "a.pt", "torchscript", pin=pin)

    assert not (tmp_path / "out.safetensors").exists()


def test_a_script_is_no_pickle_of_numbers(tmp_path: Path) -> None:
    save_script(small(), tmp_path / "a.pt")

    with pytest.raises(ModelNotLoaded, match="no tensors that can be read safely"):
        converted(tmp_path / "a.pt", "pickle")


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1), "b": Evil(tmp_path / "ran")}, tmp_path / "a.pt")

    with pytest.raises(ModelNotLoaded, match="no tensors that can be read safely"):
        converted(tmp_path / "a.pt")

    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("format", ["pickle", "safetensors"])
@pytest.mark.parametrize("data", [b"", b"not a model", pickle.dumps({"a": 1}, protocol=2), b"\xff" * 64])
def test_rubbish_is_refused(tmp_path: Path, data: bytes, format: FileFormat) -> None:
    (tmp_path / "a.pt").write_bytes(data)

    with pytest.raises(ModelNotLoaded, match="holds no tensors"):
        converted(tmp_path / "a.pt", format)


def test_a_truncated_pickle_is_refused(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "a.pt")
    data = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(data[: len(data) // 2])

    with pytest.raises(ModelNotLoaded, match="no tensors that can be read safely"):
        converted(tmp_path / "a.pt")


def test_two_sets_of_weights_are_not_chosen_from(tmp_path: Path) -> None:
    torch.save({"params": small(1).state_dict(), "params_ema": small(2).state_dict()}, tmp_path / "a.pt")

    with pytest.raises(ModelNotLoaded, match="several sets of weights"):
        converted(tmp_path / "a.pt")


def test_a_wrong_hash_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "a.pt")

    with pytest.raises(ModelNotLoaded, match="not the published file"):
        converted(tmp_path / "a.pt", pin="0" * 64)


def test_the_sidecar_tells_source_and_result(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "a.pt")

    converted(tmp_path / "a.pt")

    assert read_sidecar(tmp_path / "out.safetensors") == Sidecar(
        "small", "official", hash_of(tmp_path / "a.pt"), hash_of(tmp_path / "out.safetensors")
    )


def test_converting_twice_gives_the_same_file(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "a.pt")

    converted(tmp_path / "a.pt", to="first")
    converted(tmp_path / "a.pt", to="second")

    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
