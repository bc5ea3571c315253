"""The resource plan: shares with and without GPUs, and refusals that say what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from deployments.app import AppArgs
from deployments.resources import MODELS, PlanDoesNotFit, Share, plan_resources

GPU = {"BiRefNet": 0.4, "MobileSAM": 0.2, "LaMa": 0.3}
CPU = {"BiRefNet": 0.3, "MobileSAM": 0.3, "LaMa": 0.3, "JobManager": 0.2, "Ingress": 0.2}


def plan(
    nodes: Sequence[Mapping[str, float]],
    device: str = "auto",
    gpu: Mapping[str, float] = GPU,
    cpu: Mapping[str, float] = CPU,
) -> dict[str, Share]:
    return plan_resources(device=device, gpu_share=gpu, cpu_share=cpu, nodes=nodes)


def test_with_a_gpu_each_model_holds_its_fraction() -> None:
    shares = plan([{"CPU": 4, "GPU": 1}])
    assert {name: shares[name].num_gpus for name in MODELS} == GPU
    assert shares["JobManager"].num_gpus == shares["Ingress"].num_gpus == 0


def test_without_a_gpu_each_model_holds_a_small_cpu_share() -> None:
    shares = plan([{"CPU": 2, "memory": 8e9}])
    assert {name: share.num_cpus for name, share in shares.items()} == CPU
    assert all(share.num_gpus == 0 for share in shares.values())


def test_device_cpu_leaves_a_gpu_alone() -> None:
    assert all(share.num_gpus == 0 for share in plan([{"CPU": 4, "GPU": 1}], device="cpu").values())


def test_device_cuda_reserves_gpus_that_join_later() -> None:
    shares = plan([{"CPU": 2}], device="cuda")
    assert shares["BiRefNet"].num_gpus == 0.4


def test_device_cuda_is_checked_once_there_is_a_gpu() -> None:
    with pytest.raises(PlanDoesNotFit):
        plan([{"CPU": 4, "GPU": 1}], device="cuda", gpu={**GPU, "BiRefNet": 0.9})


def test_the_default_plan_fits_on_two_cores() -> None:
    args = AppArgs()
    plan([{"CPU": 2}], gpu=args.gpu_share.model_dump(), cpu=args.cpu_share.model_dump())


def test_the_default_plan_fits_on_one_gpu() -> None:
    args = AppArgs()
    plan([{"CPU": 2, "GPU": 1}], gpu=args.gpu_share.model_dump(), cpu=args.cpu_share.model_dump())


def test_shares_that_fill_a_node_exactly_fit() -> None:
    plan([{"CPU": 1.3, "GPU": 0.9}])


def test_too_little_gpu_is_refused_with_the_name_the_need_and_what_there_is() -> None:
    with pytest.raises(PlanDoesNotFit) as refusal:
        plan([{"CPU": 4, "GPU": 1}], gpu={"BiRefNet": 0.8, "MobileSAM": 0.1, "LaMa": 0.3})
    text = str(refusal.value)
    assert "Deployment MobileSAM does not fit: it needs 0.3 CPU and 0.1 GPU" in text or (
        "Deployment LaMa does not fit: it needs 0.3 CPU and 0.3 GPU" in text
    )
    assert "the nodes have 4 CPU and 1 GPU" in text
    assert "gpu_share" in text


def test_too_little_cpu_is_refused_with_the_name_the_need_and_what_there_is() -> None:
    with pytest.raises(PlanDoesNotFit, match=r"needs 3 CPU and 0 GPU, the nodes have 2 CPU and 0 GPU"):
        plan([{"CPU": 2}], cpu={**CPU, "LaMa": 3})


def test_no_node_is_refused() -> None:
    with pytest.raises(PlanDoesNotFit, match="the nodes have no node"):
        plan([])


def test_models_may_lie_on_several_nodes() -> None:
    plan([{"CPU": 0.5}, {"CPU": 0.5}, {"CPU": 0.6}])


def test_one_share_does_not_spread_over_two_nodes() -> None:
    with pytest.raises(PlanDoesNotFit, match="Deployment BiRefNet"):
        plan([{"CPU": 1}, {"CPU": 1}], cpu={**CPU, "BiRefNet": 1.5})


def test_gpu_models_go_to_the_gpu_node_and_the_rest_beside_it() -> None:
    plan([{"CPU": 0.5}, {"CPU": 0.9, "GPU": 1}])


def test_a_gpu_node_without_cpus_does_not_do() -> None:
    with pytest.raises(PlanDoesNotFit, match="BiRefNet"):
        plan([{"CPU": 8}, {"CPU": 0, "GPU": 1}])


def test_cpu_only_deployments_leave_the_gpu_nodes_cpus_to_the_models() -> None:
    """The models need the GPU node's last CPU; JobManager and Ingress fit elsewhere."""
    plan([{"CPU": 0.9, "GPU": 1}, {"CPU": 0.4}])


def test_a_share_in_rays_words() -> None:
    assert Share(0.3, 0.4).actor_options() == {"num_cpus": 0.3, "num_gpus": 0.4}
