"""Weights come into the models folder from the network, from a file at hand, or not at all with advice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import ModelNotLoaded
from pipeline.models.download import DownloadError, Patience
from pipeline.models.files import only_writer
from pipeline.models.install import install, install_custom, install_file
from pipeline.models.sidecar import Sidecar, read_sidecar, sidecar_path
from pipeline.models.weights import find_weights, load_weights
from pipeline.models.zoo import FileFormat, Variant
from tests.file_server import FileServer, Served
from tests.pipeline.models.weight_files import Small, Training, save_script, small, variant_of

HASTE = Patience(answer_s=1, stall_s=0.3, silence_s=2, pause_s=0.01)
FORMATS: list[FileFormat] = ["safetensors", "pickle", "torchscript"]


def publish(folder: Path, format: FileFormat, server: FileServer | None = None) -> tuple[Path, Variant]:
    """A published file of that format, and its row; served if there is a server."""
    folder.mkdir()
    path = folder / "weights"
    if format == "safetensors":
        save_file(small().state_dict(), path)
    elif format == "pickle":
        torch.save(small().state_dict(), path)
    else:
        save_script(Training(small()), path)
    url = server.add("/weights", Served(path.read_bytes())) if server else "http://127.0.0.1:9/weights"
    return path, variant_of(path, format=format, urls=(url,))


def assert_loads(models_dir: Path, variant: Variant) -> None:
    network = Small()
    load_weights(network, find_weights(models_dir, variant))
    for name, tensor in small().state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("format", FORMATS)
def test_a_fetched_file_loads(tmp_path: Path, server: FileServer, format: FileFormat) -> None:
    _, variant = publish(tmp_path / "published", format, server)
    models_dir = tmp_path / "models"
    models_dir.mkdir()

    assert install(variant, models_dir, patience=HASTE) == "fetched"

    assert_loads(models_dir, variant)
    assert names_in(models_dir) == {variant.file_name, f"{variant.file_name}.json"}
    sidecar = read_sidecar(models_dir / variant.file_name)
    assert sidecar is not None
    assert (sidecar.origin, sidecar.source_sha256) == ("official", variant.weights.sha256)


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_there_is_not_fetched_again(tmp_path: Path, server: FileServer, format: FileFormat) -> None:
    _, variant = publish(tmp_path / "published", format, server)
    install(variant, tmp_path, patience=HASTE)
    before = (tmp_path / variant.file_name).stat().st_ino

    assert install(variant, tmp_path, patience=HASTE) == "there"

    assert len(server.requests) == 1
    assert (tmp_path / variant.file_name).stat().st_ino == before


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_file_is_fetched_again(tmp_path: Path, server: FileServer, format: FileFormat) -> None:
    _, variant = publish(tmp_path / "published", format, server)
    install(variant, tmp_path, patience=HASTE)
    (tmp_path / variant.file_name).write_bytes(b"damaged")

    assert install(variant, tmp_path, patience=HASTE) == "fetched"

    assert_loads(tmp_path, variant)


@pytest.mark.parametrize("format", FORMATS)
def test_a_published_file_put_there_by_hand_needs_no_network(tmp_path: Path, format: FileFormat) -> None:
    file, variant = publish(tmp_path / "published", format)
    (tmp_path / variant.download_name).write_bytes(file.read_bytes())

    install(variant, tmp_path, patience=HASTE)

    assert_loads(tmp_path, variant)
    assert (tmp_path / variant.download_name).exists()  # it is not ours to delete
    assert sidecar_path(tmp_path / variant.file_name).exists()


@pytest.mark.parametrize("format", FORMATS)
def test_a_published_file_is_taken_from_anywhere(tmp_path: Path, format: FileFormat) -> None:
    file, variant = publish(tmp_path / "published", format)

    install_file(variant, tmp_path, file)

    assert_loads(tmp_path, variant)
    assert file.exists()


def test_another_file_is_not_taken_for_the_published_one(tmp_path: Path) -> None:
    _, variant = publish(tmp_path / "published", "torchscript")
    save_script(small(seed=2), tmp_path / "other.pt")

    with pytest.raises(ModelNotLoaded, match="not the published file of Small"):
        install_file(variant, tmp_path, tmp_path / "other.pt")

    assert not (tmp_path / variant.file_name).exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_own_weights_are_custom(tmp_path: Path, suffix: str) -> None:
    _, variant = publish(tmp_path / "published", "safetensors")
    file = tmp_path / f"mine{suffix}"
    state = small(seed=2).state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save({"state_dict": state}, file)

    found = install_custom(variant, tmp_path, file)

    assert found.model_version == "Small+custom"
    assert torch.equal(load_file(found.path)["model.0.weight"], state["model.0.weight"])
    with pytest.raises(ModelNotLoaded, match="is missing"):
        find_weights(tmp_path, variant)


def test_an_own_script_is_refused(tmp_path: Path) -> None:
    _, variant = publish(tmp_path / "published", "torchscript")
    save_script(small(), tmp_path / "mine.pt")

    with pytest.raises(ModelNotLoaded, match="no tensors that can be read safely"):
        install_custom(variant, tmp_path, tmp_path / "mine.pt")


def test_without_a_connection_the_text_says_what_to_put_where(tmp_path: Path) -> None:
    _, variant = publish(tmp_path / "published", "torchscript")
    models_dir = tmp_path / "models"
    models_dir.mkdir()

    with pytest.raises(DownloadError) as caught:
        install(variant, models_dir, patience=HASTE)

    advice = caught.value.advice
    assert caught.value.offline
    for hint in (variant.weights.url, variant.weights.sha256, str(models_dir / variant.download_name), "HTTPS_PROXY"):
        assert hint in advice
    assert names_in(models_dir) == set()


def test_the_text_tells_why_the_file_that_is_there_will_not_do(tmp_path: Path) -> None:
    _, variant = publish(tmp_path / "published", "safetensors")
    (tmp_path / variant.file_name).write_bytes(b"half")

    with pytest.raises(DownloadError) as caught:
        install(variant, tmp_path, patience=HASTE)

    assert "it has 4 bytes instead of" in caught.value.advice
    assert (tmp_path / variant.file_name).read_bytes() == b"half"


def test_a_half_conversion_leaves_nothing_that_loads(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after the sidecar and before the file has its name."""
    _, variant = publish(tmp_path / "published", "pickle", server)

    def die(part: Path, path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.models.convert.publish", die)
        with pytest.raises(KeyboardInterrupt):
            install(variant, tmp_path, patience=HASTE)
    with pytest.raises(ModelNotLoaded, match="is missing"):
        find_weights(tmp_path, variant)

    assert install(variant, tmp_path, patience=HASTE) == "converted"
    assert_loads(tmp_path, variant)


def test_a_stale_sidecar_does_not_speak_for_an_official_file(tmp_path: Path) -> None:
    file, variant = publish(tmp_path / "published", "safetensors")
    (tmp_path / variant.file_name).write_bytes(file.read_bytes())
    sidecar_path(tmp_path / variant.file_name).write_text("not even JSON")

    assert find_weights(tmp_path, variant).origin == "official"


def test_an_official_sidecar_says_the_pin_twice_for_safetensors(tmp_path: Path, server: FileServer) -> None:
    _, variant = publish(tmp_path / "published", "safetensors", server)
    install(variant, tmp_path, patience=HASTE)

    pin = variant.weights.sha256
    assert read_sidecar(tmp_path / variant.file_name) == Sidecar("small", "official", pin, pin)


def test_only_one_process_writes_into_a_folder(tmp_path: Path) -> None:
    with only_writer(tmp_path / "models") as first, only_writer(tmp_path / "models") as second:
        assert (first, second) == (True, False)

    with only_writer(tmp_path / "models") as free:
        assert free
