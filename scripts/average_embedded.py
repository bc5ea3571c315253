"""Average the weights of two runs of the embedded network, the second begun with the weights of the first.

    .venv/bin/python scripts/average_embedded.py FIRST SECOND --data DIR --out embedded.safetensors --version 2

Both files come from ``train_embedded.py``. Weights of a run that was continued on other samples, averaged with those
it began with, keep what both have learnt: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022. The
figures on the validation photos of ``DIR`` are printed for both and for their mean, and go into the file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from pipeline.models.embedded.network import EmbeddedNetwork
from scripts.train_embedded import STORED_SIZE
from scripts.training_embedded.export import export_weights
from scripts.training_embedded.pairs import load_pairs
from scripts.training_embedded.validation import validate


def main() -> None:
    options = _parse_arguments()
    first, second = load_file(options.first), load_file(options.second)
    with safe_open(options.second, framework="pt") as file:
        size = int(file.metadata()["size"])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    photos = load_pairs(
        options.data, validation=True, size=STORED_SIZE, cache=options.cache or options.out.parent / "cache"
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, state in (("first", first), ("second", second), ("mean", mean_of(first, second, options.share))):
        network = network_with(state).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        figures = validate(network, photos, size=size, device=device)
        print(f"{name}: {figures}", flush=True)
    export_weights(network, options.out, size=size, figures=figures, version=options.version)


def mean_of(first: Mapping[str, Tensor], second: Mapping[str, Tensor], share: float = 0.5) -> dict[str, Tensor]:
    """Each weight, float32, ``share`` of it from ``second``. Raises ``KeyError`` if the two differ in names."""
    if first.keys() != second.keys():
        raise KeyError("The files hold different networks.")
    return {name: torch.lerp(first[name].float(), second[name].float(), share) for name in first}


def network_with(state: Mapping[str, Tensor]) -> EmbeddedNetwork:
    """The network for inference."""
    network = EmbeddedNetwork()
    counters = {name: value for name, value in network.state_dict().items() if value.dtype == torch.int64}
    network.load_state_dict(counters | {name: weight.float() for name, weight in state.items()})
    return network.eval().requires_grad_(False)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second in the mean")
    parser.add_argument("--data", type=Path, required=True, help="folder with duts-val-*.tar or pairs")
    parser.add_argument("--cache", type=Path, help="folder for decoded photos; by default beside --out")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--version", default="1", help="of the weights; the model's name ends in it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
