"""A PyTorch network as an OpenVINO model: exported for one input shape, then translated operator by operator."""

from __future__ import annotations

import warnings

import openvino as ov
import openvino.opset15 as operators
import torch
from openvino import Output
from openvino.frontend import FrontEndManager, NodeContext
from openvino.frontend.pytorch import ConversionExtension
from openvino.frontend.pytorch.fx_decoder import TorchFXPythonDecoder
from torch import Tensor, nn

import pipeline.models.birefnet.deformable_convolution  # noqa: F401  registers the operator that is translated below


def convert(network: nn.Module, x: Tensor) -> ov.Model:
    """The network for inputs of the shape of ``x``, in float32. The network is not run, only followed.

    Args:
        network: In ``eval`` mode, without gradients. Whatever it makes once and keeps, it has made already.
        x: An example input, float32, on the CPU.
    """
    # Not openvino.convert_model: that reports its use over the network unless it is told not to.
    frontend = FrontEndManager().load_by_framework("pytorch")
    frontend.add_extension(ConversionExtension("clearcut.deformable_convolution.default", _deformable_convolution))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of either library about itself
        exported = torch.export.export(network, (x,), strict=False)
        decoder = TorchFXPythonDecoder.from_exported_program(exported, dynamic_shapes=False)
        model: ov.Model = frontend.convert(frontend.load(decoder))
    return model


def _deformable_convolution(node: NodeContext) -> list[Output]:
    x, offset, modulation, weight = (node.get_input(i) for i in range(4))
    padding = [weight.get_partial_shape()[2].get_length() // 2] * 2
    # Padded bilinearly: a tap that falls between the border and the outside sees both, as in our own form.
    operator = operators.deformable_convolution(
        x, offset, weight, [1, 1], padding, padding, [1, 1], modulation, bilinear_interpolation_pad=True
    )
    outputs: list[Output] = operator.outputs()
    return outputs
