"""The small JSON file beside a weight file that says where its bytes come from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from pipeline.errors import ModelNotLoaded
from pipeline.models.files import sha256_of, write_whole

Origin: TypeAlias = Literal["official", "synthetic", "custom"]


@dataclass(frozen=True)
class Sidecar:
    """Where a weight file comes from.

    Attributes:
        variant: Name of the variant it was made for.
        origin: ``official`` files match the zoo's pin; ``synthetic`` and ``custom`` ones load only if asked for.
        source_sha256: Of the file it was converted from; the same as ``sha256`` if it was not.
        sha256: Of the weight file itself.
    """

    variant: str
    origin: Origin
    source_sha256: str
    sha256: str


def sidecar_path(weights: Path) -> Path:
    return weights.with_name(f"{weights.name}.json")


def write_sidecar(weights: Path, sidecar: Sidecar) -> None:
    text = json.dumps(asdict(sidecar), indent=2)
    write_whole(sidecar_path(weights), f"{text}\n".encode())


def record(weights: Path, variant: str, origin: Origin, *, source_sha256: str | None = None) -> Sidecar:
    """Writes the sidecar of a safetensors file that is there, and returns it."""
    own = sha256_of(weights)
    sidecar = Sidecar(variant, origin, source_sha256 or own, own)
    write_sidecar(weights, sidecar)
    return sidecar


def read_sidecar(weights: Path) -> Sidecar | None:
    """The sidecar of ``weights``; None if it has none.

    Raises:
        ModelNotLoaded: There is one, and it cannot be understood.
    """
    path = sidecar_path(weights)
    try:
        sidecar = Sidecar(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise ModelNotLoaded(f"{path.name} cannot be read. Delete it and the weight file, and install anew.") from error
    if not all(isinstance(value, str) for value in asdict(sidecar).values()) or sidecar.origin not in get_args(Origin):
        raise ModelNotLoaded(f"{path.name} holds other values than a sidecar's. Delete it and install anew.")
    return sidecar
