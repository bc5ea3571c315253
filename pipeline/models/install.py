"""Puts a variant's weights into the models folder: fetched, or from a file at hand; verified, converted if need be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.errors import ModelNotLoaded
from pipeline.models import convert
from pipeline.models.download import DownloadError, Patience, Progress, download
from pipeline.models.files import part_of, publish, sha256_of
from pipeline.models.sidecar import Sidecar, record, sidecar_path, write_sidecar
from pipeline.models.weights import VerifiedWeights, verify_weights
from pipeline.models.zoo import FileFormat, Variant

Outcome: TypeAlias = Literal["there", "fetched", "converted"]


def install(
    variant: Variant, models_dir: Path, *, patience: Patience | None = None, progress: Progress | None = None
) -> Outcome:
    """Makes the official weights of ``variant`` be there and right; does nothing if they are.

    A published file that lies in the folder under ``variant.download_name`` is used instead of the network.

    Raises:
        DownloadError: They could not be fetched; the text says what to do by hand.
        ModelNotLoaded: They were fetched and cannot be converted.
        OSError: The folder cannot be written, or has no room.
    """
    target = models_dir / variant.file_name
    trouble = None
    if target.exists():
        try:
            found = verify_weights(target, variant)
            if not sidecar_path(target).exists():  # put here by hand
                write_sidecar(target, Sidecar(variant.name, found.origin, found.sha256, found.sha256))
            return "there"
        except ModelNotLoaded as error:
            trouble = error.detail
    source = models_dir / variant.download_name
    pin = variant.weights
    if source != target and is_published_file(source, variant):
        _convert(source, target, variant)
        return "converted"
    try:
        download(pin.urls, source, sha256=pin.sha256, size_bytes=pin.size_bytes, patience=patience, progress=progress)
    except DownloadError as error:
        raise DownloadError(error.problems, offline=error.offline, advice=_advice(variant, source, trouble)) from error
    if source == target:
        write_sidecar(target, Sidecar(variant.name, "official", pin.sha256, pin.sha256))
        return "fetched"
    _convert(source, target, variant)
    source.unlink()
    return "fetched"


def install_file(variant: Variant, models_dir: Path, file: Path) -> Outcome:
    """Installs the published file that somebody fetched by hand; it may lie anywhere and have any name.

    Raises:
        ModelNotLoaded: It is not the published file.
    """
    if not is_published_file(file, variant):
        pin = variant.weights
        raise ModelNotLoaded(
            f"{file.name} is not the published file of {variant.model_version}: that has {pin.size_bytes} bytes "
            f"and the SHA-256 {pin.sha256}, this one {file.stat().st_size} bytes and {sha256_of(file)}."
        )
    target = models_dir / variant.file_name
    if variant.weights.format != "safetensors":
        _convert(file, target, variant)
        return "converted"
    if file.resolve() != target.resolve():
        shutil.copyfile(file, part_of(target))
        publish(part_of(target), target)
    record(target, variant.name, "official")
    verify_weights(target, variant)  # the copy, too
    return "there"


def install_custom(variant: Variant, models_dir: Path, file: Path) -> VerifiedWeights:
    """Installs somebody's own weights for ``variant``: safetensors, or a pickled state dict.

    Raises:
        ModelNotLoaded: The file cannot be read, or only by running it.
    """
    target = models_dir / variant.unpinned_file_name
    format: FileFormat = "safetensors" if file.suffix == ".safetensors" else "pickle"
    convert.convert_to_safetensors(file, target, format=format, variant=variant.name, origin="custom", pin=None)
    return verify_weights(target, variant, allow_unpinned=True)


def is_published_file(file: Path, variant: Variant) -> bool:
    """Whether ``file`` has the size and the hash of the pin."""
    pin = variant.weights
    return file.is_file() and file.stat().st_size == pin.size_bytes and sha256_of(file) == pin.sha256


def _convert(source: Path, target: Path, variant: Variant) -> None:
    pin = variant.weights
    convert.convert_to_safetensors(
        source, target, format=pin.format, variant=variant.name, origin="official", pin=pin.sha256
    )


def _advice(variant: Variant, place: Path, trouble: str | None) -> str:
    """What whoever has no connection can do."""
    pin = variant.weights
    lines = [
        *([f"What is there now cannot be used: {trouble}"] if trouble else []),
        "Is there a connection? Behind a proxy, set HTTPS_PROXY. To fetch the file by hand, take",
        f"    {pin.url}",
        f"({pin.size_bytes} bytes, SHA-256 {pin.sha256}) on a machine that can, and put it here as",
        f"    {place.absolute()}",
        f"or anywhere, and run: scripts/download_models.py {variant.name} --from FILE",
    ]
    return "\n".join(lines)
