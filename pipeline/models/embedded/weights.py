"""The embedded network's weights: a file inside the package, read strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.errors import ModelNotLoaded
from pipeline.models.embedded.network import EmbeddedNetwork
from pipeline.types import EngineInfo

WEIGHTS_PATH: Final = Path(__file__).with_name("embedded.safetensors")


@dataclass(frozen=True)
class TrainedNetwork:
    """A network ready to run, in float32 and evaluation mode.

    Attributes:
        network: Takes (B, 5, side_px, side_px) uint8.
        side_px: Height and width it was trained at last.
        version: Of the weights; ``clearcut-embedded-<version>`` is the model's name.
    """

    network: EmbeddedNetwork
    side_px: int
    version: str

    def engine_info(self, side_px: int, job: str) -> EngineInfo:
        """What an engine on this network tells of itself: the side of its images, and what it does, in words."""
        return EngineInfo(
            model_version=f"clearcut-embedded-{self.version}",
            device="cpu",
            input_size_hw=(side_px, side_px),
            degraded_reason=(
                f"No model weights found; {job} with the small network that comes with Clearcut. For finer edges see "
                "README, Models."
            ),
        )


def load_weights(path: Path = WEIGHTS_PATH, *, device: str = "cpu") -> TrainedNetwork:
    """The network with the weights of ``path``, batch norms folded into the convolutions before them.

    Raises:
        ModelNotLoaded: The file is missing or does not fit the network.
    """
    network = EmbeddedNetwork()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dictionary)
        counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
        network.load_state_dict(state | counters)
        trained = TrainedNetwork(network, int(metadata["size"]), metadata["version"])
    except (OSError, SafetensorError, RuntimeError, KeyError, ValueError) as error:
        raise ModelNotLoaded("The embedded network's weights are missing or broken; install Clearcut again.") from error
    network.eval().requires_grad_(False)
    _fold_batch_norms(network)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
    return trained


def _fold_batch_norms(network: nn.Module) -> None:
    for module in network.modules():
        if not isinstance(module, nn.Sequential) or len(module) < 2:
            continue
        convolution, norm = module[0], module[1]
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module[0] = fuse_conv_bn_eval(convolution, norm)
            module[1] = nn.Identity()
