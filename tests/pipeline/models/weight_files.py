"""A small network, a row of the table for it, and its weights in every format."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.models.zoo import VARIANTS, FileFormat, Variant


class Small(nn.Module):
    """A convolution and a normalisation, under names like a real network's."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, width, 1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        filtered: Tensor = self.model(x)
        return filtered


class Training(nn.Module):
    """A training module: the network beside another one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.generator = network
        self.discriminator = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        generated: Tensor = self.generator(x)
        return generated


def small(seed: int = 1, width: int = 2) -> Small:
    network = Small(width)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return network.eval()


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def save_script(module: nn.Module, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        torch.jit.script(module).save(path)


def variant_of(file: Path, *, format: FileFormat = "safetensors", urls: tuple[str, ...] = ("http://a/b",)) -> Variant:
    """A row whose published file is ``file``."""
    weights = dataclasses.replace(
        VARIANTS["lite"].weights,
        url=urls[0],
        mirrors=urls[1:],
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        size_bytes=file.stat().st_size,
        format=format,
    )
    return dataclasses.replace(VARIANTS["lite"], name="small", model_version="Small", weights=weights)
