"""Averaged weights as the file the product ships."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from scripts.training_embedded.validation import Figures


def export_weights(network: nn.Module, path: Path, *, size: int, figures: Figures, version: str = "1") -> None:
    """Write ``network``'s weights as float16 with the size they were trained at and their figures as metadata."""
    state = {
        name: tensor.to("cpu", torch.float16 if tensor.is_floating_point() else tensor.dtype).contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    metadata = {
        "version": version,
        "size": str(size),
        **{key: f"{value:.4f}" for key, value in asdict(figures).items()},
    }
    save_file(state, path, metadata=metadata)
