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

from pipeline.models.lama import winograd
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
        self.blocks = nn.ModuleList(CpuBlock(cast(FoldedBlock, block), self.dtype) for block in folded.blocks)
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
        framed = _mirrored(x, 1)[0].permute(1, 2, 0)
        for block in self.blocks:
            block(framed)
        x = framed[1:-1, 1:-1].permute(2, 0, 1)[None]
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

    def __init__(self, block: FoldedBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.conv1 = CpuFfc(block.conv1, dtype)
        self.conv2 = CpuFfc(block.conv2, dtype)

    def forward(self, framed: Tensor) -> None:
        """Changes ``framed``, (h + 2, w + 2, C), its rim mirrored before and after."""
        between = torch.empty_like(framed)
        for part, y in zip(self._parts(between), self.conv1(framed), strict=True):
            torch.clamp_min(y, 0, out=part)
        _mirror_rim(between)
        for part, y in zip(self._parts(framed), self.conv2(between), strict=True):
            part.add_(y.relu_())
        _mirror_rim(framed)

    def _parts(self, framed: Tensor) -> tuple[Tensor, Tensor]:
        inside, local_channels = framed[1:-1, 1:-1], self.conv1.local_channels
        return inside[..., :local_channels], inside[..., local_channels:]


class CpuFfc(nn.Module):
    """An FFC with its batch norm, up to the ReLU."""

    def __init__(self, ffc: FoldedFfc, dtype: torch.dtype) -> None:
        super().__init__()
        self.local_channels = ffc.local_channels
        self.convs = (TiledConvs if dtype == torch.float32 else DirectConvs)(ffc)
        self.weight1, self.bias1 = _constant(_matrix(ffc.conv1)), ffc.conv1.bias
        self.fourier_unit = CpuFourierUnit(ffc.fourier_unit)
        self.weight2 = _constant(_matrix(ffc.conv2))

    def forward(self, framed: Tensor) -> tuple[Tensor, Tensor]:
        """The local part (h, w, C_l) and the global part (h, w, C_g) for a map (h + 2, w + 2, C_l + C_g)."""
        height, width, _ = framed.shape
        rows = framed.flatten(0, 1)[:, self.local_channels :]
        assert self.bias1 is not None
        # Also on the rim, where no one needs it: that is cheaper than to cut it off.
        h = torch.addmm(self.bias1, rows, self.weight1).relu_().view(height, width, -1)
        h = self.fourier_unit(h[1:-1, 1:-1])
        y_l, y_g = self.convs(framed)
        h = h.flatten(0, 1)
        y_g.view(len(h), -1).addmm_(h, self.weight2)
        return y_l, y_g


class DirectConvs(nn.Module):
    """The 3x3 convolutions of an FFC: all channels to the local part, local channels to the global part."""

    def __init__(self, ffc: FoldedFfc) -> None:
        super().__init__()
        self.to_local = ffc.to_local
        self.local_to_global = ffc.local_to_global

    def forward(self, framed: Tensor) -> tuple[Tensor, Tensor]:
        """(h + 2, w + 2, C_l + C_g) to (h, w, C_l) and (h, w, C_g)."""
        x = framed.permute(2, 0, 1)[None]
        y_l: Tensor = self.to_local(x)
        y_g: Tensor = self.local_to_global(x[:, : self.local_to_global.in_channels])
        return y_l[0].permute(1, 2, 0), y_g[0].permute(1, 2, 0)


class TiledConvs(nn.Module):
    """``DirectConvs`` in tiles, which both convolutions share."""

    def __init__(self, ffc: FoldedFfc) -> None:
        super().__init__()
        self.to_local = _constant(winograd.weights_to_tiles(ffc.to_local.weight))
        self.local_to_global = _constant(winograd.weights_to_tiles(ffc.local_to_global.weight))
        assert ffc.to_local.bias is not None
        assert ffc.local_to_global.bias is not None
        self.bias = _constant(torch.cat([ffc.to_local.bias, ffc.local_to_global.bias]))

    def forward(self, framed: Tensor) -> tuple[Tensor, Tensor]:
        """As ``DirectConvs.forward``."""
        height, width, _ = framed.shape
        local_channels = self.to_local.shape[2]
        y = torch.cat(
            [
                self._strip(framed[lines.start : lines.stop + 2], local_channels)
                for lines in winograd.strips((height - 2, width - 2))
            ]
        )
        return y[..., :local_channels], y[..., local_channels:]

    def _strip(self, framed: Tensor, local_channels: int) -> Tensor:
        tiles = winograd.map_to_tiles(framed)
        products = torch.empty_like(tiles)
        torch.bmm(tiles, self.to_local, out=products[..., :local_channels])
        torch.bmm(tiles[..., :local_channels], self.local_to_global, out=products[..., local_channels:])
        return winograd.tiles_to_map(products, (framed.shape[0] - 2, framed.shape[1] - 2), self.bias)


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


def _mirror_rim(framed: Tensor) -> None:
    """Sets the outermost pixels of (h + 2, w + 2, C) to those two farther in."""
    framed[0] = framed[2]
    framed[-1] = framed[-3]
    framed[:, 0] = framed[:, 2]
    framed[:, -1] = framed[:, -3]


def _matrix(conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution's weight for products with pixels as rows, (C_in, C_out)."""
    return conv.weight[:, :, 0, 0].T.contiguous()


def _constant(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=False)
