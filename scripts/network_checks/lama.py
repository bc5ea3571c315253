"""LaMa against its goldens, stage by stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.lama.network import LamaGenerator, masked_input
from pipeline.models.lama.predictor import LamaPredictor, pad_window
from scripts.network_checks.outputs import outputs_of

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Stages: TypeAlias = dict[str, tuple[NDArray[Any], NDArray[Any]]]


@dataclass(frozen=True)
class Tap:
    """Where a golden was taken: which module's output, which part of a feature, every how many channels and pixels."""

    module: str
    channels: int
    pixels: int
    part: Literal["local", "global"] | None = None

    def of(self, output: Any) -> NDArray[Any]:
        if self.part is not None:
            output = output[("local", "global").index(self.part)]
        sliced: Tensor = output[:, :: self.channels, :: self.pixels, :: self.pixels]
        return sliced.numpy()


def _both_parts(stage: str, module: str) -> dict[str, Tap]:
    return {f"{stage}_local_s": Tap(module, 8, 2, "local"), f"{stage}_global_s": Tap(module, 16, 2, "global")}


EARLY_TAPS: Final = {
    "sq_model1_s": Tap("model.1", 8, 16),
    "sq_model2_s": Tap("model.2", 8, 8),
    "sq_model3_s": Tap("model.3", 8, 4),
    **_both_parts("sq_model4", "model.4"),
    "sq_block5_conv1_fourier_s": Tap("model.5.conv1.ffc.convg2g.fu", 8, 2),
    "sq_block5_conv1_spectral_s": Tap("model.5.conv1.ffc.convg2g", 16, 2),
    **_both_parts("sq_block5_conv1_ffc", "model.5.conv1.ffc"),
    **_both_parts("sq_block5_conv1", "model.5.conv1"),
    **_both_parts("sq_model5", "model.5"),
}
LATE_TAPS: Final = {
    **_both_parts("sq_model13", "model.13"),
    **_both_parts("sq_model22", "model.22"),
    "sq_model24_s": Tap("model.24", 16, 4),
    "sq_model27_s": Tap("model.27", 8, 8),
    "sq_model30_s": Tap("model.30", 8, 16),
    "sq_model34_logits_s4": Tap("model.34", 1, 4),
}
LAST_BLOCK: Final = Tap("model.22", 32, 2, "global")


TOLERANCES: Final = {
    "*_output*": 2e-5,
    "pipe_result_u8": 1,  # where a value is truncated, a rounding error may flip a level
    "pipe_*": 0,
}
"""Largest absolute errors. The official code is 2.3e-6 off its own float64 run."""


def build(name: str) -> LamaGenerator:
    """The published configuration; ``name`` has no variants."""
    return LamaGenerator()


def stages(network: LamaGenerator, golden: Arrays) -> Stages:
    """Every golden stage with ours first, as float32 or uint8 arrays of one shape."""
    with torch.inference_mode():
        found = _square(network, golden) | _other_shape(network, golden, "wide") | _other_shape(network, golden, "odd")
    return {name: (ours, golden[name]) for name, ours in (found | _pipeline(network, golden)).items()}


@torch.inference_mode()
def early_stages(network: LamaGenerator, golden: Arrays) -> Stages:
    """The stages up to the first block, from a network that may have no more blocks than that."""
    x = network_input(golden, "sq")
    with outputs_of(network, [tap.module for tap in EARLY_TAPS.values()]) as outputs:
        network.model[:6](x)
    found = {"sq_input_s4": x[:, :, ::4, ::4].numpy()}
    found |= {name: tap.of(outputs[tap.module]) for name, tap in EARLY_TAPS.items()}
    return {name: (ours, golden[name]) for name, ours in found.items()}


def network_input(golden: Arrays, case: str) -> Tensor:
    """What the network reads in a golden case, float32, (1, 4, H, W)."""
    image = torch.from_numpy(golden[f"{case}_image"]).permute(2, 0, 1)[None].float() / 255
    mask = torch.from_numpy(golden[f"{case}_mask"] > 0)[None, None].float()
    return masked_input(image, mask)


def _square(network: LamaGenerator, golden: Arrays) -> dict[str, NDArray[Any]]:
    x = network_input(golden, "sq")
    taps = EARLY_TAPS | LATE_TAPS
    with outputs_of(network, {tap.module for tap in taps.values()}) as outputs:
        picture: Tensor = network(x)
    found = {"sq_input_s4": x[:, :, ::4, ::4].numpy()}
    found |= {name: tap.of(outputs[tap.module]) for name, tap in taps.items()}
    return found | {"sq_output": picture.numpy()}


def _other_shape(network: LamaGenerator, golden: Arrays, case: str) -> dict[str, NDArray[Any]]:
    with outputs_of(network, [LAST_BLOCK.module]) as outputs:
        picture: Tensor = network(network_input(golden, case))
    return {
        f"{case}_model22_global_s": LAST_BLOCK.of(outputs[LAST_BLOCK.module]),
        f"{case}_output_s2": picture[:, :, ::2, ::2].numpy(),
    }


def _pipeline(network: LamaGenerator, golden: Arrays) -> dict[str, NDArray[Any]]:
    image, mask = golden["pipe_image"], golden["pipe_mask"] > 0
    (filled,) = LamaPredictor(network, model_version="LaMa").inpaint([image], [mask])
    return {
        "pipe_padded_image_u8": np.moveaxis(pad_window(image), -1, 0),
        "pipe_padded_mask": pad_window(mask),
        "pipe_result_u8": filled,
    }
