"""Photos and masks on disk, decoded once into one array."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

VALIDATION_NAME = "duts-val"
"""Files and folders whose name begins so are for validation and never trained on."""

Rgba = NDArray[np.uint8]
"""(N, S, S, 4) or (S, S, 4): RGB and the mask, 0..255, squeezed to a square."""


def load_pairs(folder: Path, *, validation: bool, size: int, cache: Path) -> Rgba:
    """All pairs of ``folder`` as one array, (N, size, size, 4); decoded on the first call only.

    Raises:
        FileNotFoundError: No ``<name>.jpg`` with a ``<name>.png`` beside it, in tar files or loose.
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / f"{'validation' if validation else 'training'}-{size}.npy"
    if not path.exists():
        encoded = _paired(dict(_encoded_files(folder, validation=validation)))
        if not encoded:
            raise FileNotFoundError(f"No pairs of .jpg and .png for {path.stem} in {folder}.")
        unfinished = path.with_suffix(".unfinished")
        array = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (len(encoded), size, size, 4))
        with ThreadPoolExecutor() as threads:
            for index, pair in enumerate(threads.map(lambda pair: _decode(*pair, size=size), encoded)):
                array[index] = pair
        array.flush()
        unfinished.rename(path)
    pairs: Rgba = np.load(path)
    return pairs


def _encoded_files(folder: Path, *, validation: bool) -> Iterator[tuple[str, bytes]]:
    """Name without folders and bytes of every picture, in the order of names."""
    for path in sorted(folder.rglob("*")):
        if path.relative_to(folder).parts[0].startswith(VALIDATION_NAME) is not validation:
            continue
        if path.suffix == ".tar":
            with tarfile.open(path) as archive:
                for member in archive:
                    if file := archive.extractfile(member):
                        yield Path(member.name).name, file.read()
        elif path.suffix in (".jpg", ".png"):
            yield path.name, path.read_bytes()


def _paired(files: dict[str, bytes]) -> list[tuple[bytes, bytes]]:
    photos = sorted(name for name in files if name.endswith(".jpg"))
    masks = [str(Path(name).with_suffix(".png")) for name in photos]
    return [(files[photo], files[mask]) for photo, mask in zip(photos, masks, strict=True) if mask in files]


def _decode(photo: bytes, mask: bytes, *, size: int) -> Rgba:
    bgr = cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR)
    grey = cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_GRAYSCALE)
    if bgr is None or grey is None or bgr.shape[:2] != grey.shape:
        raise ValueError("A photo or mask is broken, or the two differ in size.")
    pair = np.dstack([bgr[..., ::-1], grey])
    shrinks = max(grey.shape) > size
    resized = cv2.resize(pair, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(resized, dtype=np.uint8)
