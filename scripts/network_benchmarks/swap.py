"""Other modules in the places of a network's own, on the same weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def swap(network: nn.Module, kind: type[Module], make: Callable[[Module], nn.Module]) -> None:
    """Puts ``make(module)`` in the place of every module of exactly this kind inside ``network``."""
    places = [(name, module) for name, module in network.named_modules() if name and type(module) is kind]
    for name, module in places:
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, make(module))
