"""Gradients on several threads, each with a slice of the batch."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from scripts.training_embedded.loss import training_loss


class Lanes:
    """Slices of a batch, each run forward and backward by one thread alone.

    On a CPU that others use too this is far faster than all threads sharing each operation: they would wait for the
    slowest at hundreds of barriers per step, here at one. On a GPU there is one lane.

    Batch norm sees one slice at a time. The network's own running statistics come from the first slice; the other
    slices' are thrown away, so results do not depend on which thread was faster.
    """

    def __init__(self, network: nn.Module, *, count: int) -> None:
        self.parameters = list(network.parameters())
        self.networks = [network, *(_sharing_weights(network) for _ in range(count - 1))]
        self.threads = ThreadPoolExecutor(count, initializer=_one_thread_each if count > 1 else None)

    def backward(self, pixels: Tensor, masks: Tensor) -> tuple[float, Tensor]:
        """Set the parameters' gradients for (B, 5, H, W) ``pixels`` and (B, 1, H, W) ``masks`` in 0..1.

        Returns:
            The mean loss, and the probabilities (B, H, W) on the CPU.
        """
        slices = zip(self.networks, pixels.chunk(len(self.networks)), masks.chunk(len(self.networks)), strict=True)
        results = list(self.threads.map(lambda part: self._slice(*part), slices))
        shares = [len(probability) / len(pixels) for _, probability, _ in results]
        total = torch._foreach_mul(results[0][2], shares[0])
        for share, (_, _, gradients) in zip(shares[1:], results[1:], strict=True):
            torch._foreach_add_(total, gradients, alpha=share)
        for parameter, gradient in zip(self.parameters, total, strict=True):
            parameter.grad = gradient
        loss = sum(share * float(loss) for share, (loss, _, _) in zip(shares, results, strict=True))
        return loss, torch.cat([probability for _, probability, _ in results]).cpu()

    def _slice(self, network: nn.Module, pixels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        with torch.autocast(pixels.device.type, torch.bfloat16):
            logits = network(pixels)
        loss = training_loss(logits, masks)
        gradients = torch.autograd.grad(loss, self.parameters)
        return loss.detach(), logits[0].detach()[:, 0].float().sigmoid(), gradients


def _sharing_weights(network: nn.Module) -> nn.Module:
    """A copy of ``network`` with buffers of its own and the very same parameters."""
    twin = copy.deepcopy(network)
    for original, copied in zip(network.modules(), twin.modules(), strict=True):
        copied._parameters = original._parameters
    return twin


def _one_thread_each() -> None:
    torch.set_num_threads(1)
