"""What tests and ``scripts/verify_networks.py`` compare networks with: golden tensors, and weights anyone can make.

Each network has a folder here: ``golden.npz`` (inputs, and outputs at many depths), ``manifest.json`` (the state dict's
names, shapes and types, in order) and a README.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tests.golden import synthetic_weights

FOLDER: Final = Path(__file__).resolve().parent

TensorSpec: TypeAlias = tuple[str, tuple[int, ...], str]
"""Name, shape and type of one tensor of a state dict, as ``("model.1.bn_l.weight", (64,), "float32")``."""


@dataclass(frozen=True)
class Golden:
    """One network's goldens.

    Attributes:
        arrays: The tensors of ``golden.npz``; the folder's README tells which slice each one is.
        tensors: The manifest: what the state dict holds, in order.
        parameters: How many numbers are trained.
    """

    arrays: Mapping[str, NDArray[Any]]
    tensors: list[TensorSpec]
    parameters: int


def open_golden(name: str, folder: Path = FOLDER) -> Golden:
    """The goldens of network ``name``. Raises ``FileNotFoundError`` if there are none in ``folder``."""
    manifest = json.loads((folder / name / "manifest.json").read_text())
    tensors = [(key, tuple(shape), dtype) for key, shape, dtype in manifest["state_dict"]]
    with np.load(folder / name / "golden.npz") as arrays:
        return Golden(arrays=dict(arrays), tensors=tensors, parameters=manifest["parameters"])


def layout(network: nn.Module) -> list[TensorSpec]:
    """What the network's state dict holds, in order; equal to its golden's ``tensors``."""
    return [
        (name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in network.state_dict().items()
    ]


def give_synthetic_weights(network: nn.Module) -> None:
    """Fills ``network`` with the weights its goldens were made with, and puts it into evaluation mode.

    Values follow from each tensor's name and shape alone, so a part of a network gets what it has in the whole.
    """
    synthetic_weights.fill(network.state_dict())
    network.eval()
