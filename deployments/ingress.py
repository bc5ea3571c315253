"""The Ingress deployment: every HTTP route. ``create_app`` makes the same application without Serve."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator

from fastapi import FastAPI
from ray import serve

from deployments.admission import Admission
from deployments.body_reception import BodyReception, Lingering
from deployments.client_address import TrustedProxies
from deployments.clients import client_in
from deployments.concurrency import ConcurrencyLimit
from deployments.errors import install_error_handlers
from deployments.handles import Handle, RemoteMatting, RemoteModel
from deployments.identification import Identification
from deployments.key_cache import KeyCache
from deployments.late_bodies import LateBodies
from deployments.limits.middleware import WorkLimits
from deployments.limits.visits import open_limits
from deployments.log_file import log_to_file
from deployments.memory_budget import MemoryBudget
from deployments.middleware import BodyLimit, RequestContext
from deployments.model_status import ModelStatus
from deployments.openapi import METADATA, install_openapi
from deployments.quarantine import Quarantine
from deployments.remote_jobs import RemoteJobs
from deployments.request_log import RequestLog
from deployments.resources import MODELS
from deployments.routes import account, background_removal, downloads, events, jobs, system, uploads
from deployments.security_headers import Cors, SecurityHeaders
from deployments.services import Services
from pipeline import codecs
from pipeline.codecs.decoder_pool import DecoderPool
from pipeline.config import Settings
from pipeline.errors import ClearcutError
from pipeline.jobs.artifacts import open_artifacts
from pipeline.origins import parse_origins

LATENCY_REPORT_EVERY_S = 5.0
SMALL_BODY_MB = 1.0

logger = logging.getLogger("ray.serve")


def create_app(services: Services, *, behind_serve: bool = False) -> FastAPI:
    """The HTTP application over ``services``; ``behind_serve`` if Serve's proxy stands in front of it."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        reporter = asyncio.create_task(_report_latencies(services))
        async with services.limits.running():
            yield
        reporter.cancel()

    app = FastAPI(**METADATA, lifespan=lifespan, docs_url=None, redoc_url=None)
    settings = services.settings
    app.state.services = services
    app.state.quarantine = Quarantine()
    for resource in (background_removal, uploads, jobs, events, downloads, account, system):
        app.include_router(resource.router)
    install_openapi(app)
    install_error_handlers(app)
    body_limit_mb = functools.partial(_body_limit_mb, settings)
    memory = MemoryBudget(settings.request_memory_mb)
    app.add_middleware(
        BodyReception,
        timeout_s=settings.upload_timeout_s,
        late=LateBodies(memory.total / 2),
        sender_of=lambda scope: client_in(scope).address,
    )
    app.add_middleware(
        Admission,
        places=ConcurrencyLimit(settings.max_removals_in_flight),
        memory=memory,
        body_limit_mb=body_limit_mb,
        is_removal=background_removal.is_removal,
    )
    app.add_middleware(BodyLimit, limit_mb=body_limit_mb)
    app.add_middleware(WorkLimits, limits=services.limits)
    app.add_middleware(
        Identification,
        proxies=TrustedProxies(settings.trusted_proxies),
        find_key=KeyCache(services.jobs.find_key).find,
        require_key=settings.require_api_key,
    )
    app.add_middleware(Lingering)
    if settings.cors_origins:
        app.add_middleware(Cors, origins=parse_origins(settings.cors_origins))
    app.add_middleware(RequestContext, send_id=not behind_serve)
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestLog)
    return app


def _body_limit_mb(settings: Settings, path: str) -> float:
    if path.endswith("/upload"):
        return settings.upload_max_size_mb
    return settings.birefnet_max_image_size_mb if background_removal.PREFIX in path else SMALL_BODY_MB


async def _report_latencies(services: Services) -> None:
    while True:
        await asyncio.sleep(LATENCY_REPORT_EVERY_S)
        with contextlib.suppress(ClearcutError, TimeoutError):
            await services.jobs.report_latency(services.replica, services.latency.snapshot())


def _remote_services() -> Services:
    """Handles of the deployments of this application, and this machine's settings."""
    settings = Settings()
    models = {name: RemoteModel(serve.get_deployment_handle(name)) for name in MODELS}

    async def status_or_none(model: RemoteModel) -> ModelStatus | None:
        try:
            return await model.status()
        except (ClearcutError, TimeoutError):
            return None

    async def model_status() -> dict[str, ModelStatus | None]:
        return dict(zip(models, await asyncio.gather(*map(status_or_none, models.values())), strict=True))

    return Services(
        settings=settings,
        matting=RemoteMatting(serve.get_deployment_handle("BiRefNet")),
        jobs=RemoteJobs(serve.get_deployment_handle("JobManager")),
        artifacts=open_artifacts(settings.work_dir),
        model_status=model_status,
        limits=open_limits(settings),
    )


def _build_asgi() -> FastAPI:
    services = _remote_services()
    log_to_file(services.settings.log_file)
    codecs.use_decoders(DecoderPool(services.settings.decoder_processes))
    codecs.warm_up()  # the replica gets no request before
    return create_app(services, behind_serve=True)


# Long polls and event streams hold one of the ongoing requests each. What comes beyond these and the queue is answered
# by Serve's proxy itself, with a plain 503: "Request dropped due to backpressure".
@serve.deployment(
    max_ongoing_requests=1000,
    max_queued_requests=100,
    health_check_period_s=1,  # a dead replica is noticed, and replaced, at the next check
    graceful_shutdown_timeout_s=60,
    max_surge_percent=100,
)
@serve.ingress(_build_asgi)
class Ingress:
    """The door. It holds the handles so that Serve knows they belong to the application; the routes find their own."""

    def __init__(
        self,
        birefnet: Handle,
        mobile_sam: Handle,
        lama: Handle,
        job_manager: Handle,
    ) -> None:
        self._handles = (birefnet, mobile_sam, lama, job_manager)
