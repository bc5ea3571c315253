"""The whole graph on one screen: who exists, who calls whom, and what each may use."""

# No "from __future__ import annotations": Serve reads the type of build()'s argument to validate args:.

from typing import Any, Literal, cast

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.schema import LoggingConfig

from deployments.birefnet import BiRefNet
from deployments.ingress import Ingress
from deployments.job_manager import JobManager
from deployments.lama import LaMa
from deployments.mobile_sam import MobileSAM
from deployments.resources import plan_resources
from pipeline.config import Settings
from pipeline.models.ladder import EngineChoice, EngineOptions, PrecisionChoice, VariantChoice


class GpuShare(BaseModel):
    """Fraction of a GPU each model reserves when there is one."""

    model_config = ConfigDict(extra="forbid")

    BiRefNet: float = Field(0.4, gt=0, le=1)
    MobileSAM: float = Field(0.2, gt=0, le=1)
    LaMa: float = Field(0.3, gt=0, le=1)


class CpuShare(BaseModel):
    """Fraction of a CPU each deployment reserves: bookkeeping, small enough that all fit on two cores."""

    model_config = ConfigDict(extra="forbid")

    BiRefNet: float = Field(0.3, gt=0)
    MobileSAM: float = Field(0.3, gt=0)
    LaMa: float = Field(0.3, gt=0)
    JobManager: float = Field(0.2, gt=0)
    Ingress: float = Field(0.2, gt=0)


class AppArgs(BaseModel):
    """``args:`` of the application: which graph is built. A typo stops the start."""

    model_config = ConfigDict(extra="forbid")

    device: Literal["auto", "cuda", "cpu"] = "auto"
    engine: EngineChoice = "auto"
    variant: VariantChoice = Field("auto", description="Which BiRefNet; auto is general on a GPU, lite on a CPU.")
    allow_unpinned: bool = Field(False, description="Whether synthetic and custom weights may load.")
    gpu_share: GpuShare = GpuShare()
    cpu_share: CpuShare = CpuShare()
    threads: int = Field(2, ge=1, description="CPU threads of each model's engine.")
    precision: PrecisionChoice = Field(
        "auto", description="On a CPU: auto is float32, and bfloat16 for LaMa on CPUs with AMX; bfloat16 is less exact."
    )


def build(args: AppArgs) -> serve.Application:
    """The application for this cluster."""
    plan = plan_resources(
        device=args.device,
        gpu_share=args.gpu_share.model_dump(),
        cpu_share=args.cpu_share.model_dump(),
        nodes=[node["Resources"] for node in ray.nodes() if node["Alive"]],  # type: ignore[no-untyped-call]
    )

    settings = Settings()
    log_level = settings.log_level.upper()
    weights_files = {"BiRefNet": settings.birefnet_model_path, "MobileSAM": settings.mobile_sam_checkpoint}

    def bind(deployment: Any, *arguments: object) -> serve.Application:
        name = deployment.name
        logging_config = LoggingConfig(
            encoding="JSON",
            log_level=log_level,
            enable_access_log=False,  # the ingress has a log of requests of its own (request_log.py)
        )
        options = {"ray_actor_options": plan[name].actor_options(), "logging_config": logging_config}
        return cast(serve.Application, deployment.options(**options).bind(*arguments))

    def engine(name: str) -> EngineOptions:
        return EngineOptions(
            engine=args.engine,
            has_gpu=plan[name].num_gpus > 0,
            threads=args.threads,
            models_dir=settings.models_dir,
            weights_file=weights_files.get(name),
            variant=args.variant,
            allow_unpinned=args.allow_unpinned,
            precision=args.precision,
        )

    birefnet = bind(BiRefNet, engine("BiRefNet"))
    mobile_sam = bind(MobileSAM, engine("MobileSAM"))
    lama = bind(LaMa, engine("LaMa"))
    job_manager = bind(JobManager, mobile_sam, lama)
    return bind(Ingress, birefnet, mobile_sam, lama, job_manager)
