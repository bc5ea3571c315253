"""Makes a compiled network and compares it with PyTorch; as a program, so that what this takes is given back."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import ModelNotLoaded
from pipeline.models.openvino.cache import CompiledModels, Entry, Verification
from pipeline.models.openvino.conversion import convert
from pipeline.models.openvino.facts import facts_of
from pipeline.models.openvino.networks import compilable
from pipeline.models.openvino.runtime import Precision, compile_model, load
from pipeline.models.weights import VerifiedWeights, verify_weights
from pipeline.models.zoo import VARIANTS

TOLERANCES: Final[dict[Precision, float]] = {"float32": 1e-3, "bfloat16": 5e-2}
"""How far a compiled network may be from PyTorch's float32, as ``Verification.error`` measures it."""

_REFUSED: Final = 3
ORPHANED: Final = 4
"""Exit statuses of the program: the weights are not the network's; who wanted the build has ended."""
_TIMEOUT_S: Final = 1800

logger = logging.getLogger(__name__)


def build_apart(weights: VerifiedWeights, precision: Precision, threads: int, folder: Path) -> None:
    """``build`` in a process of its own. Raises ``ModelNotLoaded`` if that fails."""
    order = {
        "path": str(weights.path.resolve()),
        "variant": weights.variant.name,
        "precision": precision,
        "threads": threads,
        "folder": str(folder.resolve()),
        "parent": os.getpid(),
    }
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", __name__]
    try:
        built = subprocess.run(
            command, input=json.dumps(order), env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelNotLoaded(f"Compiling {weights.model_version} for OpenVINO failed.") from error
    if built.returncode == _REFUSED:
        raise ModelNotLoaded(built.stdout.strip().splitlines()[-1])
    if built.returncode != 0:
        logger.error("Compiling %s for OpenVINO failed:\n%s", weights.model_version, built.stderr[-4000:])
        raise ModelNotLoaded(f"Compiling {weights.model_version} for OpenVINO failed (exit {built.returncode}).")


def build(weights: VerifiedWeights, precision: Precision, threads: int, folder: Path) -> None:
    """Writes the compiled network of these weights into ``folder``, with what comparing it with PyTorch said.

    Raises:
        ModelNotLoaded: The file holds another network's weights.
    """
    torch.set_num_threads(threads)
    network, shape = compilable(weights)
    x = _test_picture(shape)
    with torch.no_grad():
        expected = network(x)
    data = compile_model(convert(network, x), precision=precision)
    del network
    difference = load(data, threads=threads, precision=precision)(x) - expected
    error = float(difference.square().mean().sqrt() / expected.square().mean().sqrt())
    verification = Verification(error, float(difference.abs().max()), TOLERANCES[precision])
    entry = Entry(data if verification.passed else b"", verification)
    CompiledModels(folder).add(weights.model_version, facts_of(weights, precision), entry)


def _test_picture(shape: tuple[int, ...]) -> Tensor:
    """Values like those of a normalised photo: large smooth patches with noise on them."""
    generator = torch.Generator().manual_seed(0)
    patches = torch.randn(*shape[:2], 8, 8, generator=generator)
    smooth = F.interpolate(patches, shape[2:], mode="bilinear")
    return smooth + 0.1 * torch.randn(shape, generator=generator)


def _end_with(parent: int) -> None:
    """Ends this process soon after ``parent`` has ended: no one waits for its result then."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(ORPHANED)


def _main() -> int:
    order = json.load(sys.stdin)
    threading.Thread(target=_end_with, args=(order["parent"],), daemon=True).start()
    variant = VARIANTS[order["variant"]]
    try:
        weights = verify_weights(Path(order["path"]), variant, allow_unpinned=True)
        build(weights, order["precision"], order["threads"], Path(order["folder"]))
    except ModelNotLoaded as refusal:
        print(refusal.detail)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(_main())
