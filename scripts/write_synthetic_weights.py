"""Writes weight files of made-up values, for trying the networks without a download.

    .venv/bin/python scripts/write_synthetic_weights.py                        # BiRefNet lite, MobileSAM, LaMa
    .venv/bin/python scripts/write_synthetic_weights.py general --models-dir DIR

The values are those of the goldens (``tests/golden/synthetic_weights.py``): any machine writes the same files. Networks
do with them everything they do with trained ones, at the same speed, and make noise of every photo. They load only
with ``allow_unpinned: true``, and ``X-Model-Version`` then ends in ``+synthetic``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save_file
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # works from any folder

from pipeline.config import Settings  # noqa: E402
from pipeline.models.files import part_of, publish  # noqa: E402
from pipeline.models.sidecar import record  # noqa: E402
from pipeline.models.torch_engines import network_of  # noqa: E402
from pipeline.models.zoo import VARIANTS, Variant, default_names  # noqa: E402
from tests.golden.goldens import give_synthetic_weights  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--models-dir", type=Path, help="folder to write into; MODELS_DIR by default")
    options = parser.parse_args(arguments)
    names: list[str] = options.names or list(default_names(has_gpu=False))
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    models_dir: Path = options.models_dir or ROOT / Settings(_env_file=ROOT / ".env").models_dir
    models_dir.mkdir(parents=True, exist_ok=True)
    for name in tqdm(names, unit="file", disable=None):
        print(write(VARIANTS[name], models_dir))


def write(variant: Variant, models_dir: Path) -> Path:
    """The safetensors file, written with its sidecar."""
    network = network_of(variant)
    give_synthetic_weights(network)
    path = models_dir / variant.unpinned_file_name
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, part_of(path))
    publish(part_of(path), path)
    record(path, variant.name, "synthetic")
    return path


if __name__ == "__main__":
    main()
