"""Turns pickled and TorchScript weight files into safetensors, which hold numbers and nothing that could run.

Names of tensors stay as they are in the file; ``weights.py`` finds their prefix when a network is there to compare.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ModelNotLoaded
from pipeline.models.files import part_of, publish, sha256_of
from pipeline.models.sidecar import Origin, Sidecar, write_sidecar
from pipeline.models.zoo import FileFormat

if TYPE_CHECKING:
    from torch import Tensor


def convert_to_safetensors(
    source: Path, target: Path, *, format: FileFormat, variant: str, origin: Origin, pin: str | None
) -> Sidecar:
    """Writes the tensors of ``source`` to ``target``, with a sidecar.

    Args:
        source: A published or custom file.
        target: The safetensors file to write; one of that name is replaced.
        format: Of ``source``. A TorchScript file is a program: it is opened only if it has the hash ``pin``.
        variant: For the sidecar.
        origin: For the sidecar.
        pin: SHA-256 that ``source`` must have; None takes any file that is no program.

    Raises:
        ModelNotLoaded: ``source`` has another hash, or no tensors that can be read safely.
    """
    from safetensors.torch import load, save_file

    data = source.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if pin is not None and found != pin:
        raise ModelNotLoaded(f"{source.name} is not the published file: its SHA-256 is {found}, not {pin}.")
    try:
        # What is opened are the very bytes that were hashed, whatever happens to the file meanwhile.
        if format == "torchscript":
            if pin is None:
                raise ModelNotLoaded(f"{source.name} is a TorchScript program; only a pinned one is opened.")
            tensors = _torchscript_tensors(data)
        elif format == "pickle":
            tensors = _pickled_tensors(data, source.name)
        else:
            tensors = load(data)
    except ModelNotLoaded:
        raise
    except Exception as error:  # readers of such files raise whatever their bytes lead them to
        raise ModelNotLoaded(f"{source.name} holds no tensors that can be read safely as {format}.") from error
    del data  # large
    if not tensors:
        raise ModelNotLoaded(f"{source.name} holds no tensors.")
    part = part_of(target)
    # Each in memory of its own: safetensors refuses tensors that share it.
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, part)
    sidecar = Sidecar(variant, origin, source_sha256=found, sha256=sha256_of(part))
    write_sidecar(target, sidecar)  # first: a sidecar without its file does no harm
    publish(part, target)
    return sidecar


def _torchscript_tensors(data: bytes) -> dict[str, Tensor]:
    import torch

    with warnings.catch_warnings():
        # Nothing else reads these files; the published one will not change.
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.load.* is deprecated", category=DeprecationWarning)
        module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
        return dict(module.state_dict())


def _pickled_tensors(data: bytes, file_name: str) -> dict[str, Tensor]:
    """The state dict in a pickle, plain or one level down (Lightning: ``state_dict``); of several the largest."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about unusual files, which are read or refused all the same
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        return {}
    candidates = [_tensors_of(level) for level in (content, *content.values()) if isinstance(level, Mapping)]
    candidates.sort(key=len, reverse=True)
    if len(candidates) > 1 and candidates[1] and len(candidates[0]) == len(candidates[1]):
        raise ModelNotLoaded(f"{file_name} holds several sets of weights of the same size; save the one wanted alone.")
    return candidates[0]


def _tensors_of(mapping: Mapping[object, object]) -> dict[str, Tensor]:
    import torch

    return {name: value for name, value in mapping.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
