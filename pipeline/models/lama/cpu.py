"""LaMa on a CPU: channels lie together, so nearly all of it is matrix products on memory as it lies.

A block's map stands in the middle of a buffer one pixel larger on each side. Results are written there, and the rim is
mirrored in place: nothing is joined, cut or transposed between the convolutions.
"""

from __future__ import annotations

import functools
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.lama.folded import FoldedBlock, FoldedFfc, FoldedFourierUnit, FoldedLama
from pipeline.models.lama.fourier import RealFourier
from pipeline.models.lama.network import LamaGenerator


class CpuLama(nn.Module):
    """What a ``LamaGenerator`` computes, for inference on a CPU. It has weights of its own.

    Args:
        network: With its weights.
        dtype: What convolutions compute in; None takes ``quickest_dtype()``. Fourier transforms are float32 with any.
    """

    def __init__(self, network: LamaGenerator, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        folded = FoldedLama(network)
        self.dtype = quickest_dtype() if dtype is None else dtype
        self.first = folded.first
        self.halving = folded.halving
        self.blocks = nn.ModuleList(CpuBlock(cast(FoldedBlock, block)) for block in folded.blocks)
        self.doubling = folded.doubling
        self.last = folded.last
        self.to(dtype=self.dtype).eval()
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d | nn.ConvTranspose2d):
                conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        """Shapes and ranges as ``LamaGenerator.forward``; any size, any batch.

        Pictures follow each other: one alone keeps all threads busy, and more would take more memory.
        """
        return torch.cat([self._picture(one) for one in torch.split(x, 1)])

    def _picture(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype, memory_format=torch.channels_last)
        x = self.first(_mirrored(x, 3)).relu_()
        for conv in self.halving:
            x = conv(_mirrored(x, 1)).relu_()
        framed = _mirrored(x, 1)
        for block in self.blocks:
            block(framed)
        x = _inside(framed)
        for conv in self.doubling:
            x = conv(x).relu_()
        logits: Tensor = self.last(_mirrored(x, 3))  # (1, 3, H, W)
        return logits.float().sigmoid()


def quickest_dtype() -> torch.dtype:
    """bfloat16 on a CPU with matrix tiles for it (AMX), else float32.

    AVX-512 has instructions for bfloat16 too, but Intel's CPUs multiply float32 faster than with those.
    """
    return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16") else torch.float32


class CpuBlock(nn.Module):
    """A residual block that adds to a map where it stands."""

    def __init__(self, block: FoldedBlock) -> None:
        super().__init__()
        self.conv1 = CpuFfc(block.conv1)
        self.conv2 = CpuFfc(block.conv2)

    def forward(self, framed: Tensor) -> None:
        """Changes ``framed``, (1, C, h + 2, w + 2), its rim mirrored before and after."""
        between = torch.empty_like(framed)
        for channels, result in self.conv1(framed):
            torch.clamp_min(result, 0, out=_inside(between)[:, channels])
        _mirror_rim(between)
        for channels, result in self.conv2(between):
            _inside(framed)[:, channels].add_(result.relu_())
        _mirror_rim(framed)


class CpuFfc(nn.Module):
    """An FFC with its batch norm, up to the ReLU."""

    def __init__(self, ffc: FoldedFfc) -> None:
        super().__init__()
        self.local_channels = ffc.local_channels
        self.to_local = ffc.to_local
        self.local_to_global = ffc.local_to_global
        self.weight1, self.bias1 = _constant(_matrix(ffc.conv1)), ffc.conv1.bias
        self.fourier_unit = CpuFourierUnit(ffc.fourier_unit)
        self.weight2 = _constant(_matrix(ffc.conv2))

    def forward(self, framed: Tensor) -> list[tuple[slice, Tensor]]:
        """Channels and what belongs there, (1, C, h, w), of a map (1, C_l + C_g, h + 2, w + 2) with a mirrored rim."""
        local = slice(0, self.local_channels)
        _, channels, height, width = framed.shape
        rows = framed.permute(0, 2, 3, 1).view(height * width, channels)
        assert self.bias1 is not None
        # Also on the rim, where no one needs it: that is cheaper than to cut it off.
        h = torch.addmm(self.bias1, rows[:, self.local_channels :], self.weight1).relu_()
        h = self.fourier_unit(h.view(height, width, -1)[1:-1, 1:-1]).flatten(0, 1)
        y_g: Tensor = self.local_to_global(framed[:, local])
        y_g.permute(0, 2, 3, 1).view(len(h), -1).addmm_(h, self.weight2)
        return [(local, self.to_local(framed)), (slice(self.local_channels, channels), y_g)]


class CpuFourierUnit(nn.Module):
    """A Fourier unit on a map (h, w, C), and the identity beside it."""

    def __init__(self, unit: FoldedFourierUnit) -> None:
        super().__init__()
        weight, bias = _matrix(unit.conv), unit.conv.bias  # (2 C, 2 C): re, im, re, im, … on both sides
        assert bias is not None
        weight = torch.cat([weight[0::2], weight[1::2]])
        self.weight = _constant(torch.stack([weight[:, 0::2], weight[:, 1::2]]))  # (2, 2 C, C): a matrix for each part
        self.bias = _constant(torch.stack([bias[0::2], bias[1::2]])[:, None])  # (2, 1, C)

    def forward(self, x: Tensor) -> Tensor:
        """``x`` plus what the unit makes of it, (h, w, C)."""
        height, width, channels = x.shape
        rows_in, columns_in, columns_out, rows_out = _matrices(height, width)
        frequencies = width // 2 + 1
        line = frequencies * channels
        real = x.float()
        spectrum = torch.bmm(rows_in.expand(height, -1, -1), real)  # (h, 2 k, C), k = w // 2 + 1
        spectrum = columns_in @ spectrum.view(2 * height, line)  # (2 h, k C): all real parts, then all imaginary ones
        parts = spectrum.view(2, height * frequencies, channels).to(self.weight.dtype)
        both = torch.cat([parts[0], parts[1]], 1)  # (h k, 2 C)
        parts = torch.baddbmm(self.bias, both.expand(2, -1, -1), self.weight).relu_()  # (2, h k, C)
        spectrum = columns_out @ parts.float().view(2 * height, line)
        y = torch.baddbmm(real, rows_out.expand(height, -1, -1), spectrum.view(height, 2 * frequencies, channels))
        return y.to(x.dtype)


@functools.lru_cache(maxsize=8)
def _matrices(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Into the spectrum along rows and columns, and back along columns and rows, for maps with channels last.

    Along the rows the parts of a line follow each other, (2 k, w) and (w, 2 k). The spectrum's lines are then those of
    a matrix: h times real and imaginary part. What comes out of ``columns_in`` has all real parts first instead.
    """
    fourier = RealFourier((height, width))
    return (
        torch.cat([fourier.rows_in_re, fourier.rows_in_im], 1).T.contiguous(),
        torch.stack([fourier.columns_in_re, fourier.columns_in_im], 2).flatten(1),
        torch.stack([fourier.columns_out_re, fourier.columns_out_im], 1).flatten(0, 1),
        torch.cat([fourier.rows_out_re, fourier.rows_out_im]).T.contiguous(),
    )


def _mirrored(x: Tensor, pixels: int) -> Tensor:
    padded = F.pad(x, (pixels, pixels, pixels, pixels), mode="reflect")
    return padded.contiguous(memory_format=torch.channels_last)


def _inside(framed: Tensor) -> Tensor:
    return framed[:, :, 1:-1, 1:-1]


def _mirror_rim(framed: Tensor) -> None:
    """Sets the outermost pixels to those two farther in."""
    framed[:, :, 0] = framed[:, :, 2]
    framed[:, :, -1] = framed[:, :, -3]
    framed[..., 0] = framed[..., 2]
    framed[..., -1] = framed[..., -3]


def _matrix(conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution's weight for products with pixels as rows, (C_in, C_out)."""
    return conv.weight[:, :, 0, 0].T.contiguous()


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=False)
