"""The service about itself: its documentation, its health, and whether it is ready."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import JSONResponse, RedirectResponse, Response

from deployments.error_docs import page_refusals
from deployments.errors import error_response, request_id_of
from deployments.model_status import ModelStatus
from deployments.openapi import list_endpoints
from deployments.parameters import told
from deployments.schemas import Alive, Documentation, Readiness, ServiceHealth
from deployments.security_headers import page_policy
from deployments.services import Services, ServicesDep
from deployments.version import API_VERSION
from pipeline.errors import ModelNotLoaded

router = APIRouter(tags=["system"])

_SWAGGER = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/"

_DOCUMENTATION: dict[str, Any] = {
    "service": "Clearcut",
    "version": API_VERSION,
    "description": "Cuts people and products out of photos; extracts or removes what you tap.",
    "documentation": "/docs",
    "openapi": "/openapi.json",
}


@router.get(
    "/",
    operation_id="documentation",
    summary="What this service offers: this page.",
    response_model=Documentation,
    response_description="Every route, in a line each.",
    responses={
        307: told("A browser goes to the studio.", Location="/studio/"),
        **page_refusals(),
    },
)
async def root(request: Request) -> Documentation | RedirectResponse:
    """What this service offers; who would rather have HTML is led to the studio."""
    if prefers_html(request.headers.get("accept", "")):
        return RedirectResponse("/studio/", status_code=307)
    return Documentation(**_DOCUMENTATION, endpoints=list_endpoints(request.app))


@router.get("/studio/", include_in_schema=False)
async def studio() -> Response:
    """The interactive documentation, in the place of the web page to come."""
    return RedirectResponse("/docs", status_code=307)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The interactive documentation, the one page here that loads anything from elsewhere: its scripts."""
    page = get_swagger_ui_html(
        openapi_url=f"{request.scope.get('root_path', '')}/openapi.json",
        title="Clearcut",
        swagger_js_url=f"{_SWAGGER}swagger-ui-bundle.js",
        swagger_css_url=f"{_SWAGGER}swagger-ui.css",
        swagger_favicon_url=f"{_SWAGGER}favicon-32x32.png",
    )
    page.headers["Content-Security-Policy"] = page_policy(bytes(page.body), assets=_SWAGGER)
    return page


@router.get(
    "/health",
    operation_id="health",
    summary="The service in one look.",
    response_model=ServiceHealth,
    response_model_exclude_none=True,
    response_description="Healthy, or degraded and why.",
    responses=page_refusals({ModelNotLoaded: "Not loaded: LaMa: It does not answer."}),
)
async def health(request: Request, services: ServicesDep) -> ServiceHealth | JSONResponse:
    """Which models are loaded, and on what."""
    statuses = await services.model_status()
    infos = {name: status.info if status else None for name, status in statuses.items()}
    loaded = {name: info is not None for name, info in infos.items()}
    reasons = {info.degraded_reason for info in infos.values() if info and info.degraded_reason}
    missing = [name for name, info in infos.items() if info is None]
    told = [f"{name}: {_problem(statuses[name])}" for name in missing]
    detail = f"Not loaded: {' '.join(told)}" if missing else " ".join(sorted(reasons)) or None
    body = ServiceHealth(
        status="unhealthy" if missing else "degraded" if reasons else "healthy",
        version=API_VERSION,
        device="cuda" if any(info and info.device == "cuda" for info in infos.values()) else "cpu",
        models_loaded=loaded,
        models={name: info.model_version if info else None for name, info in infos.items()},
        runtimes={name: info.runtime if info else None for name, info in infos.items()},
        batch_sizes={name: dict(sorted(status.batch_sizes.items())) for name, status in statuses.items() if status},
        detail=detail,
    )
    if missing:
        error = {"error_code": "MODEL_NOT_LOADED", "request_id": request_id_of(request)}
        return JSONResponse({**body.model_dump(), **error}, status_code=503)
    return body


def _problem(status: ModelStatus | None) -> str:
    return (status and status.error) or "It does not answer."


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="The process is up.",
    response_description="It is.",
    responses=page_refusals(),
)
async def healthz() -> Alive:
    """Whether this process answers; it asks no other."""
    return Alive()


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Every deployment is ready.",
    response_model=Readiness,
    response_description="It is.",
    responses=page_refusals({ModelNotLoaded: "Not ready yet: LaMa."}),
)
async def readyz(request: Request, services: ServicesDep) -> Readiness | JSONResponse:
    """200 once every deployment answers; a deployment is up only after its model was loaded and warmed up."""
    ready = await _ready(services)
    missing = [name for name, is_ready in ready.items() if not is_ready]
    if missing:
        fields = {"status": "starting", "deployments": ready}
        return error_response(request, 503, ModelNotLoaded.code, f"Not ready yet: {', '.join(missing)}.", fields)
    return Readiness(deployments=ready)


async def _ready(services: Services) -> dict[str, bool]:
    async def jobs() -> bool:
        try:
            return await asyncio.wait_for(services.jobs.ready(), 2.0)
        except Exception:
            return False

    statuses, jobs_ready = await asyncio.gather(services.model_status(), jobs())
    return {
        **{name: status is not None for name, status in statuses.items()},
        "JobManager": jobs_ready,
        "Ingress": True,
    }


def prefers_html(accept: str) -> bool:
    """Whether an ``Accept`` header ranks text/html above application/json."""

    def quality(media_type: str) -> float:
        best = 0.0
        for item in accept.split(","):
            name, *parameters = [part.strip() for part in item.split(";")]
            if name.lower() == media_type:
                weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
                best = max(best, float(weight) if weight.replace(".", "", 1).isdigit() else 0.0)
        return best

    return quality("text/html") > quality("application/json")
