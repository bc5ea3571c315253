"""An optimiser for convolutions and matrices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose steps are made orthogonal: each direction of a matrix moves alike.

    Takes weights of two or more dimensions; a convolution counts as the matrix (outputs, inputs * height * width).
    Steps are scaled to the size that AdamW's have, so learning rate and weight decay carry over.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the scale is from Liu et al., "Muon
    is scalable for LLM training", 2025.
    """

    def __init__(
        self, weights: Iterable[Tensor], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(weights, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all weights that have a gradient; weights of one shape together, in one batched product."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for weights in by_shape.values():
                updates = torch.stack([self._momentum(weight, group["momentum"]) for weight in weights])
                steps = orthogonalise(updates.flatten(2))
                scale = 0.2 * max(steps.shape[-2:]) ** 0.5
                for weight, direction in zip(weights, steps, strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.add_(direction.view(weight.shape).to(weight.dtype), alpha=-group["lr"] * scale)

    def _momentum(self, weight: Tensor, momentum: float) -> Tensor:
        gradient = weight.grad
        assert gradient is not None
        buffer: Tensor = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
        buffer.lerp_(gradient, 1 - momentum)
        return gradient.lerp(buffer, momentum)


def orthogonalise(matrices: Tensor, *, rounds: int = 5) -> Tensor:
    """(N, R, C): about U V^T for each matrix U S V^T, by a Newton-Schulz iteration in bfloat16."""
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.transpose(-2, -1)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(rounds):
        gram = x @ x.transpose(-2, -1)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.transpose(-2, -1) if tall else x
