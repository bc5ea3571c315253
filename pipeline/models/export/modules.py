"""From verified weights to the module that is exported, in a precision, and an example of what it reads."""

from __future__ import annotations

from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.models.birefnet.network import BiRefNet
from pipeline.models.birefnet.weights import load_birefnet
from pipeline.models.export.graphs import EmbeddingGraph, InpaintingGraph, MasksGraph, MattingGraph
from pipeline.models.export.specs import GraphSpec, Precision
from pipeline.models.lama.folded import FoldedFourierUnit, FoldedLama
from pipeline.models.lama.network import LamaGenerator
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.mobile_sam.prompt_encoder import EMPTY, FOREGROUND, PADDING
from pipeline.models.torch_engines import SHAPES, network_of
from pipeline.models.weights import VerifiedWeights, load_weights, read_tensors

Graph: TypeAlias = Literal["matting", "embedding", "masks", "inpainting"]

FLOATS: Final = {"matting": "logits", "inpainting": "picture"}
"""The output that a graph has for comparisons, besides its bytes."""


def load_network(weights: VerifiedWeights) -> nn.Module:
    """The network of ``weights``, in float32, for inference. Raises ``ModelNotLoaded`` if the file does not hold it."""
    with torch.device("meta"):
        network = network_of(weights.variant)
    if isinstance(network, BiRefNet):
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        return load_birefnet(SHAPES[weights.variant.backbone], read_tensors(weights, shapes))
    load_weights(network, weights)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def graph_module(
    spec: GraphSpec, network: nn.Module, *, precision: Precision | None = None, floats: bool = False
) -> nn.Module:
    """The graph's module, ready to be exported or run.

    Args:
        spec: The graph.
        network: In float32, for inference. Halving BiRefNet changes it: load it anew for something else.
        precision: None is float32 throughout.
        floats: Whether the output for comparisons is there too.
    """
    kind = kind_of(spec)
    module: nn.Module
    if kind == "matting":
        assert isinstance(network, BiRefNet)
        network(torch.zeros(1, 3, 64, 64))  # what it keeps of its weights is made by its first use
        module = MattingGraph(network.half() if precision == "fp16" else network, floats=floats)
    elif kind == "inpainting":
        side_px = spec.inputs[0].shape[0]
        folded = FoldedLama(cast(LamaGenerator, network), (side_px, side_px))
        module = InpaintingGraph(_half_but_fourier(folded) if precision == "fp16-fft32" else folded, floats=floats)
    else:
        assert isinstance(network, MobileSam)
        module = EmbeddingGraph(network) if kind == "embedding" else MasksGraph(network)
    module.training = False  # eval() would make BiRefNet forget what it keeps
    return module


def kind_of(spec: GraphSpec) -> Graph:
    return cast(Graph, spec.name.partition("-")[0])


def output_names(spec: GraphSpec, *, floats: bool = False) -> list[str]:
    extra = FLOATS.get(kind_of(spec))
    return [port.name for port in spec.outputs] + ([extra] if floats and extra else [])


def example_inputs(spec: GraphSpec, batch: int, seed: int = 1) -> dict[str, NDArray[Any]]:
    """Inputs of ``batch`` items for each port: pictures with flat parts, edges and grain; a few taps; round holes."""
    random = np.random.default_rng(seed)
    found: dict[str, NDArray[Any]] = {}
    for port in spec.inputs:
        shape = (batch, *port.shape)
        if port.name == "images":
            found[port.name] = np.stack([_picture(port.shape[0], port.shape[1], random) for _ in range(batch)])
        elif port.name == "masks":
            found[port.name] = np.stack([_disc(port.shape[0], port.shape[1], random) for _ in range(batch)]).astype(
                np.uint8
            )
        elif port.name == "framed_hw":
            side = spec.inputs[0].shape[0]
            found[port.name] = random.integers(side // 2, side + 1, shape).astype(np.int32)
        elif port.name == "points":
            found[port.name] = random.uniform(0, 16 * spec.inputs[0].shape[1], shape).astype(np.float32)
        elif port.name == "labels":
            labels = np.full(shape, EMPTY, np.int32)
            for i in range(batch):
                labels[i, : i + 1], labels[i, i + 1] = FOREGROUND, PADDING
            found[port.name] = labels
        else:
            found[port.name] = random.standard_normal(shape).astype(np.float32)
    return found


def run_module(module: nn.Module, spec: GraphSpec, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The module's outputs by name, on the device it is on."""
    device = next(module.parameters()).device
    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(inputs[port.name]).to(device) for port in spec.inputs))
    names = output_names(spec, floats=len(outputs) > len(spec.outputs))
    return {name: output.cpu().numpy() for name, output in zip(names, outputs, strict=True)}


def _half_but_fourier(network: FoldedLama) -> FoldedLama:
    kept = {id(part) for unit in network.modules() if isinstance(unit, FoldedFourierUnit) for part in unit.modules()}
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and id(module) not in kept:
            module.half()
    return network


def _picture(height: int, width: int, random: np.random.Generator) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:height, :width].astype(np.float32) / max(height, width)
    picture = np.stack([rows, columns, 1 - rows], axis=2) * 160
    picture[_disc(height, width, random)] = random.uniform(0, 255, 3)
    picture += random.normal(0, 12, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def _disc(height: int, width: int, random: np.random.Generator) -> NDArray[np.bool_]:
    y, x = random.uniform(0.3, 0.7, 2) * (height, width)
    rows, columns = np.mgrid[:height, :width]
    inside: NDArray[np.bool_] = (rows - y) ** 2 + (columns - x) ** 2 < (min(height, width) / 5) ** 2
    return inside
