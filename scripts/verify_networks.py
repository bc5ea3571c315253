"""Compares our networks with golden tensors of the original code, stage by stage; exits 1 if one is out of tolerance.

    python scripts/verify_networks.py                     # every network
    python scripts/verify_networks.py --network lama      # one; may be repeated
    python scripts/verify_networks.py --golden DIR        # other goldens than tests/golden

Both sides have the same synthetic weights, so no download is needed: this shows that a network computes what the
original computes and has the same tensors, not how good its pictures are.

A network is one row of ``NETWORKS`` and one file in ``scripts/network_checks/``, which offers ``NetworkChecks``.
"""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from tests.golden.goldens import FOLDER, TensorSpec, give_synthetic_weights, layout, open_golden

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Stages: TypeAlias = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]

INNER_TOLERANCE: Final = 1e-4
"""For stages without a tolerance of their own, as a share of the golden's largest value (or of 1, if that is more)."""


@dataclass(frozen=True)
class NetworkChecks:
    """What a file of ``scripts/network_checks/`` offers.

    Attributes:
        build: The network whose goldens have this name, with any weights.
        stages: Ours and the golden of every stage, by the golden's key; the network has the goldens' weights.
        tolerances: Largest error allowed (the file calls them ``TOLERANCES``), by stage or by pattern such as
            ``*_logits``; the first that fits counts.
    """

    build: Callable[[str], nn.Module]
    stages: Callable[[Any, Arrays], Stages]
    tolerances: Mapping[str, float]


NETWORKS: Final = {
    "birefnet": "birefnet",
    "birefnet_lite": "birefnet",
    "lama": "lama",
    "mobilesam": "mobile_sam",
}
"""By the name of the goldens' folder: the file of ``scripts/network_checks/`` that knows the network."""


@dataclass(frozen=True)
class Result:
    """One line of the report.

    Attributes:
        error: Largest difference; infinite if shapes differ. For the manifest, how many tensors differ.
        scale: The golden's largest value.
        tolerance: Largest error allowed.
    """

    network: str
    stage: str
    error: float
    scale: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # not so for NaN


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, action="append", help="may be repeated; all by default")
    parser.add_argument("--golden", type=Path, default=FOLDER, help="folder with a folder of goldens for each network")
    options = parser.parse_args()
    results: list[Result] = []
    missing: list[str] = []
    names = tqdm(options.network or NETWORKS, unit="network", disable=None)
    for name in names:
        names.set_description(name)
        try:
            results += verify(name, options.golden)
        except NotThere as reason:
            missing.append(f"{name}: not verified: {reason}")
    print(report(results))
    print(*missing, sep="\n", file=sys.stderr)
    return 0 if results and all(result.passed for result in results) else 1


class NotThere(Exception):
    """This network, its checks or its goldens are not part of this checkout."""


def verify(name: str, folder: Path = FOLDER) -> list[Result]:
    """The manifest's line and one for each stage of network ``name``. Raises ``NotThere``."""
    checks = load_checks(NETWORKS[name])
    try:
        golden = open_golden(name, folder)
    except FileNotFoundError as error:
        raise NotThere(f"no {error.filename}") from None
    network = checks.build(name)
    give_synthetic_weights(network)
    differing = differing_tensors(layout(network), golden.tensors)
    manifest = Result(name, f"manifest, {len(golden.tensors)} tensors", differing, 0, 0)
    return [manifest, *judge(name, checks.stages(network, golden.arrays), checks.tolerances)]


def load_checks(checks: str) -> NetworkChecks:
    """What ``scripts/network_checks/`` has for a network. Raises ``NotThere`` if that or the network is missing."""
    try:
        module = importlib.import_module(f"scripts.network_checks.{checks}")
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith(("scripts.network_checks", "pipeline.models")):
            raise  # a broken environment is no missing network
        raise NotThere(f"no {error.name}") from None
    return NetworkChecks(module.build, module.stages, module.TOLERANCES)


def differing_tensors(ours: Iterable[TensorSpec], golden: Iterable[TensorSpec]) -> int:
    """How many places of the two lists differ in name, shape or type; one too many or too few counts, too."""
    ours, golden = list(ours), list(golden)
    same = sum(mine == theirs for mine, theirs in zip(ours, golden, strict=False))
    return max(len(ours), len(golden)) - same


def judge(name: str, stages: Stages, tolerances: Mapping[str, float]) -> list[Result]:
    """One result per stage of network ``name``."""
    results = []
    for stage, (ours, golden) in stages.items():
        scale = float(np.abs(golden.astype(np.float64)).max(initial=0))
        results.append(Result(name, stage, largest_error(ours, golden), scale, tolerance(stage, scale, tolerances)))
    return results


def largest_error(ours: NDArray[Any], golden: NDArray[Any]) -> float:
    """Largest absolute difference; infinite if the shapes differ, NaN if there is one on either side."""
    if ours.shape != golden.shape:
        return math.inf
    return float(np.abs(ours.astype(np.float64) - golden.astype(np.float64)).max(initial=0))


def tolerance(stage: str, scale: float, tolerances: Mapping[str, float]) -> float:
    for pattern, largest in tolerances.items():
        if fnmatchcase(stage, pattern):
            return largest
    return INNER_TOLERANCE * max(1.0, scale)


def report(results: Iterable[Result]) -> str:
    """The results as a table, one line each."""
    lines = [f"{'network':<14} {'stage':<32} {'error':>9} {'tolerance':>9} {'largest':>9}"]
    for result in results:
        verdict = "" if result.passed else "  FAILED"
        lines.append(
            f"{result.network:<14} {result.stage:<32} {result.error:>9.2g} {result.tolerance:>9.2g} "
            f"{result.scale:>9.3g}{verdict}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
