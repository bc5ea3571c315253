"""Tensors that follow from a module's parameters alone, worked out once for inference."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn


class Derived(nn.Module):
    """A module with a constant that follows from its parameters.

    In training the constant is derived at every use, so that gradients flow. In eval mode it is kept: derived by
    ``eval()`` and again whenever a state dict is loaded, and moved with the module. Only who overwrites parameters
    of an eval-mode module in place must call ``eval()`` again.
    """

    _kept: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_kept", None, persistent=False)  # not part of a checkpoint
        self.register_load_state_dict_post_hook(_after_loading)  # type: ignore[no-untyped-call]

    def derive(self) -> Tensor:
        """The constant, from the parameters as they are now."""
        raise NotImplementedError

    def constant(self) -> Tensor:
        return self.derive() if self._kept is None else self._kept

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self._keep()
        return self

    @torch.no_grad()
    def _keep(self) -> None:
        self._kept = None if self.training else self.derive()


def _after_loading(module: nn.Module, _keys: object) -> None:
    if isinstance(module, Derived):
        module._keep()
