"""What modules inside a network answered, for comparison with goldens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn


@contextmanager
def outputs_of(network: nn.Module, modules: Iterable[str]) -> Iterator[dict[str, Any]]:
    """A dictionary that each named module's latest output lands in, for calls inside the ``with``.

    Outputs are not copied: a module that writes into its input changes what is found here.

    Raises:
        AttributeError: The network has no such module.
    """
    outputs: dict[str, Any] = {}

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs[name] = output

    hooks = [network.get_submodule(name).register_forward_hook(partial(keep, name)) for name in modules]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
