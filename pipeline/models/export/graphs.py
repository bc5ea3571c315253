"""What a compiled engine computes, from bytes to bytes: each network with its predictor's arithmetic around it.

Images enter as uint8 and leave as uint8, so that little crosses to a device, and a runtime needs no other code there.
Every output that leaves as bytes has a mean in float32 beside it: bytes cannot say that they were no numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.models.birefnet import predictor as birefnet
from pipeline.models.lama.network import masked_input
from pipeline.models.mobile_sam import predictor as mobile_sam
from pipeline.models.mobile_sam.network import MobileSam


class MattingGraph(nn.Module):
    """BiRefNet: images to alphas.

    Args:
        network: A ``BiRefNet`` in any precision.
        floats: Whether the logits come out as well, which is for comparisons.
    """

    mean_rgb: Tensor
    std_rgb: Tensor

    def __init__(self, network: nn.Module, *, floats: bool = False) -> None:
        super().__init__()
        self.network = network
        self.floats = floats
        self.register_buffer("mean_rgb", torch.tensor(birefnet.MEAN).view(3, 1, 1) * 255)
        self.register_buffer("std_rgb", torch.tensor(birefnet.STD).view(3, 1, 1) * 255)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Alphas uint8 (B, H, W) and mean logits float32 (B,) of images uint8 (B, H, W, 3)."""
        x = (images.float().permute(0, 3, 1, 2) - self.mean_rgb) / self.std_rgb
        logits = self.network(x.to(_precision(self.network)))[:, 0].float()
        alphas = (torch.sigmoid(logits) * 255).round().to(torch.uint8)
        return (alphas, logits.mean((1, 2)), *([logits] if self.floats else []))


class EmbeddingGraph(nn.Module):
    """MobileSAM's encoder: framed images to features."""

    mean_rgb: Tensor
    std_rgb: Tensor

    def __init__(self, network: MobileSam) -> None:
        super().__init__()
        self.network = network.image_encoder
        self.register_buffer("mean_rgb", torch.tensor(mobile_sam.MEAN).view(3, 1, 1))
        self.register_buffer("std_rgb", torch.tensor(mobile_sam.STD).view(3, 1, 1))

    def forward(self, images: Tensor, framed_hw: Tensor) -> tuple[Tensor]:
        """Features float32 (B, C, H / 16, W / 16).

        Args:
            images: uint8 (B, H, W, 3), each in the top left corner of its frame.
            framed_hw: int32 (B, 2), each image's height and width there; what lies beyond is 0 to the network.
        """
        x = (images.float().permute(0, 3, 1, 2) - self.mean_rgb) / self.std_rgb
        height, width = framed_hw[:, :, None, None, None].unbind(1)  # (B, 1, 1, 1)
        rows = torch.arange(images.shape[1], dtype=torch.int32, device=images.device)[:, None]
        columns = torch.arange(images.shape[2], dtype=torch.int32, device=images.device)
        x = torch.where((rows < height) & (columns < width), x, 0.0)
        return (self.network(x.to(_precision(self.network))).float(),)


class MasksGraph(nn.Module):
    """MobileSAM's prompt encoder and mask decoder: features and prompts to masks, one prompt for each image."""

    def __init__(self, network: MobileSam) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits float32 (P, 4, 4h, 4w) and their predicted IoU (P, 4).

        Args:
            features: float32 (P, C, h, w).
            points: float32 (P, T, 2), (x, y) in pixels of the frame.
            labels: int32 (P, T), as in ``mobile_sam/prompt_encoder.py``; empty slots change nothing.
        """
        masks = self.network.decode(features, points, labels.long())
        return masks.logits.float(), masks.iou.float()


class InpaintingGraph(nn.Module):
    """LaMa: windows with holes to windows that may have been.

    Args:
        network: A ``LamaGenerator``; its layers may differ in precision.
        floats: Whether the picture comes out in float32 as well, which is for comparisons.
    """

    def __init__(self, network: nn.Module, *, floats: bool = False) -> None:
        super().__init__()
        self.network = network
        self.floats = floats

    def forward(self, images: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Pictures uint8 (B, H, W, 3) and their means float32 (B,).

        Args:
            images: uint8 (B, H, W, 3).
            masks: uint8 (B, H, W); 1 is a hole, 0 is not, nothing between.
        """
        image = images.float().permute(0, 3, 1, 2) / 255
        x = masked_input(image, masks.float()[:, None])
        picture = self.network(x.to(_precision(self.network)))
        # Truncated, as the predictor does. Turned round before: bytes are nothing that TensorRT computes with.
        pictures = (picture * 255).clamp(0, 255).permute(0, 2, 3, 1).to(torch.uint8)
        return (pictures, picture.mean((1, 2, 3)), *([picture] if self.floats else []))


def _precision(network: nn.Module) -> torch.dtype:
    """The precision of the network's first layer."""
    return next(network.parameters()).dtype
