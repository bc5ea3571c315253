"""The resource plan: what share of which machine each deployment gets, and a refusal at once if it cannot fit.

Serve waits for ever for a replica that fits nowhere, so the plan is checked before anything is started.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MODELS = ("BiRefNet", "MobileSAM", "LaMa")


class PlanDoesNotFit(ValueError):
    """A deployment needs more than the cluster has left; the text says which, what it needs and what there is."""


@dataclass(frozen=True)
class Share:
    """What one replica of a deployment reserves."""

    num_cpus: float
    num_gpus: float = 0.0

    def actor_options(self) -> dict[str, float]:
        """The share in Ray's words."""
        return {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}


def plan_resources(
    *,
    device: str,
    gpu_share: Mapping[str, float],
    cpu_share: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]],
) -> dict[str, Share]:
    """One share per deployment.

    Args:
        device: ``cuda``, ``cpu``, or ``auto``: a GPU if any node has one. ``cuda`` is not checked against the nodes,
            because GPU nodes may join when they are needed.
        gpu_share: Fraction of a GPU by model, used on GPUs.
        cpu_share: Fraction of a CPU by deployment.
        nodes: ``CPU`` and ``GPU`` of each node that is up.

    Raises:
        PlanDoesNotFit: A replica of each deployment does not fit on the nodes together.
    """
    has_gpu = device == "cuda" or (device == "auto" and any(node.get("GPU", 0) > 0 for node in nodes))
    plan = {name: Share(cpus, gpu_share.get(name, 0.0) if has_gpu else 0.0) for name, cpus in cpu_share.items()}
    if not (device == "cuda" and not any(node.get("GPU", 0) > 0 for node in nodes)):
        _check_fits(plan, nodes)
    return plan


def _check_fits(plan: Mapping[str, Share], nodes: Sequence[Mapping[str, float]]) -> None:
    """Places the largest shares first, each on the first node with room."""
    free = [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes]
    for name, share in sorted(plan.items(), key=lambda item: (item[1].num_gpus, item[1].num_cpus), reverse=True):
        for index, (cpus, gpus) in enumerate(free):
            if share.num_cpus <= cpus + 1e-6 and share.num_gpus <= gpus + 1e-6:
                free[index] = (cpus - share.num_cpus, gpus - share.num_gpus)
                break
        else:
            raise PlanDoesNotFit(_explain(name, share, plan, nodes, free))


def _explain(
    name: str,
    share: Share,
    plan: Mapping[str, Share],
    nodes: Sequence[Mapping[str, float]],
    free: Sequence[tuple[float, float]],
) -> str:
    def amounts(cpus: float, gpus: float) -> str:
        return f"{cpus:g} CPU and {gpus:g} GPU"

    there = "; ".join(amounts(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes) or "no node"
    left = "; ".join(amounts(round(cpus, 3), round(gpus, 3)) for cpus, gpus in free) or "nothing"
    wanted = ", ".join(f"{other} {amounts(s.num_cpus, s.num_gpus)}" for other, s in plan.items())
    return (
        f"Deployment {name} does not fit: it needs {amounts(share.num_cpus, share.num_gpus)}, "
        f"the nodes have {there}, and {left} are left beside the others. The plan is: {wanted}. "
        "Lower gpu_share or cpu_share under args: in the configuration, or add resources."
    )
