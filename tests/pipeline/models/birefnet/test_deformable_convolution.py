"""The deformable convolution against its definition, and its shortcuts against each other."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.models.birefnet import deformable_convolution as module
from pipeline.models.birefnet.deformable_convolution import DeformableConvolution, deformable_convolution


def inputs(size_hw: tuple[int, int], *, batch: int = 2, channels: int = 4, kernel: int = 3) -> list[Tensor]:
    """x, offset, modulation, weight; offsets of a few pixels, so that many taps fall outside a small map."""
    generator = torch.Generator().manual_seed(7)
    taps = kernel**2
    shapes = ((batch, channels), (batch, 2 * taps), (batch, taps))
    x, offset, modulation = (torch.randn(*shape, *size_hw, generator=generator) for shape in shapes)
    weight = torch.randn(5, channels, kernel, kernel, generator=generator) / math.sqrt(channels * taps)
    return [x, 3 * offset, 2 * torch.sigmoid(modulation), weight]


def by_definition(x: Tensor, offset: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """The same in float64, one corner of one tap at a time."""
    picture, shift, strength = (t.double().numpy() for t in (x, offset, modulation))
    batch, _, height, width = picture.shape
    kernel = weight.shape[-1]
    rows, columns = np.mgrid[:height, :width]
    result = np.zeros((batch, weight.shape[0], height, width))
    for n in range(batch):
        for tap in range(kernel**2):
            y = rows + tap // kernel - kernel // 2 + shift[n, 2 * tap]
            x_ = columns + tap % kernel - kernel // 2 + shift[n, 2 * tap + 1]
            top, left = np.floor(y).astype(int), np.floor(x_).astype(int)
            for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
                inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
                share = (1 - np.abs(y - row)) * (1 - np.abs(x_ - column)) * inside * strength[n, tap]
                values = picture[n][:, row.clip(0, height - 1), column.clip(0, width - 1)] * share
                kernels = weight[:, :, tap // kernel, tap % kernel].double().numpy()
                result[n] += np.einsum("oc,chw->ohw", kernels, values)
    return torch.from_numpy(result)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("size_hw", [(1, 1), (5, 7), (6, 256)], ids=str)
def test_it_is_what_its_definition_says(kernel: int, size_hw: tuple[int, int]) -> None:
    given = inputs(size_hw, kernel=kernel)
    assert (deformable_convolution(*given) - by_definition(*given)).abs().max() < 1e-4


def test_without_displacement_it_is_a_convolution() -> None:
    x, offset, modulation, weight = inputs((5, 7))
    ours = deformable_convolution(x, torch.zeros_like(offset), torch.ones_like(modulation), weight)
    torch.testing.assert_close(ours, F.conv2d(x, weight, padding=1), rtol=0, atol=1e-5)


def test_a_picture_far_away_is_black() -> None:
    x, offset, modulation, weight = inputs((5, 7))
    assert not deformable_convolution(x, offset + 1e4, modulation, weight).any()


@pytest.mark.parametrize("threads", [1, 2, 3, 16])
@pytest.mark.parametrize("batch", [1, 3])
def test_runs_of_pixels_and_groups_of_channels_do_not_show(
    threads: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs((9, 11), batch=batch)
    whole = deformable_convolution(*given)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(module, "_CPU_COLUMN_BYTES", 1)  # 16 pixels at a time; the last run is shorter
    torch.testing.assert_close(deformable_convolution(*given), whole, rtol=0, atol=1e-5)


def test_half_precision_keeps_its_places() -> None:
    x, offset, modulation, weight = inputs((4, 256), batch=1)
    given = [t.bfloat16() for t in (x, offset, modulation, weight)]
    ours = deformable_convolution(*given)
    assert ours.dtype == torch.bfloat16
    assert (ours - by_definition(*(t.float() for t in given))).abs().max() < 0.05


def test_it_is_an_operator_that_pytorch_can_rely_on() -> None:
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.clearcut.deformable_convolution, inputs((5, 7)), test_utils=tests)


def test_a_trace_and_an_export_see_one_node() -> None:
    network, x = DeformableConvolution(4, 5, 3).eval().requires_grad_(False), torch.randn(2, 4, 5, 7)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        traced = torch.jit.trace(network, x)
    exported = torch.export.export(network, (x,))

    assert str(traced.inlined_graph).count("clearcut::deformable_convolution") == 1
    assert [str(node.target) for node in exported.graph.nodes].count("clearcut.deformable_convolution.default") == 1
    assert "grid_sampler" not in str(traced.inlined_graph) + str(exported.graph)
    torch.testing.assert_close(traced(x), network(x), rtol=0, atol=0)
