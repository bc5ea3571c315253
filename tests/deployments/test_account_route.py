"""GET /account, and the door of the whole application: keys, limits and their order."""

from __future__ import annotations

import contextlib
import time
from datetime import datetime

import pytest

from deployments.identification import OPEN_PATHS
from deployments.limits.tiers import COSTS
from pipeline.jobs.api_keys import ApiKeys
from tests.deployments.conftest import OpenWorld
from tests.deployments.world import World
from tests.stub_models import encode, photo


def make_key(world: World, name: str, tier: str) -> dict[str, str]:
    with contextlib.closing(ApiKeys(f"sqlite:///{world.folder / 'jobs.db'}")) as keys:
        return {"X-API-Key": keys.create(name, tier)[1]}  # type: ignore[arg-type]


async def test_an_anonymous_client_sees_its_limits_and_its_use(new_world: OpenWorld) -> None:
    async with new_world(rate_limit_per_minute=30) as world:
        await world.upload()
        told = (await world.client.get("/account")).json()

    reset_at = datetime.fromisoformat(told["use"].pop("limit_reset_at")).timestamp()
    assert told == {
        "tier": "anonymous",
        "limits": {"requests_per_minute": 30, "requests_at_once": 3},
        "use": {"requests_last_minute": 1, "requests_remaining": 29, "requests_at_work": 0},
    }
    assert time.time() + 50 < reset_at < time.time() + 62


@pytest.mark.parametrize(("tier", "per_minute", "at_once"), [("free", 30, 3), ("basic", 100, 10), ("pro", 1000, 50)])
async def test_a_key_has_the_limits_of_its_tier(new_world: OpenWorld, tier: str, per_minute: int, at_once: int) -> None:
    async with new_world(rate_limit_per_minute=7) as world:
        told = (await world.client.get("/account", headers=make_key(world, "bench", tier))).json()

    assert (told["tier"], told["name"]) == (tier, "bench")
    assert told["limits"] == {"requests_per_minute": per_minute, "requests_at_once": at_once}


async def test_a_service_without_limits_says_nothing_of_them(world: World) -> None:
    assert (await world.client.get("/account")).json() == {"tier": "anonymous"}


async def test_a_key_and_an_address_have_limits_of_their_own(new_world: OpenWorld) -> None:
    async with new_world(rate_limit_per_minute=2) as world:
        for _ in range(2):
            await world.upload()
        files = {"file": ("photo.png", encode(photo()), "image/png")}

        without = await world.client.post("/upload", files=files)
        with_key = await world.client.post("/upload", files=files, headers=make_key(world, "bench", "free"))

    assert (without.status_code, with_key.status_code) == (429, 200)
    assert with_key.headers["x-ratelimit-remaining"] == "29"


async def test_an_unknown_key_costs_nobody_anything(new_world: OpenWorld) -> None:
    async with new_world(rate_limit_per_minute=1) as world:
        for _ in range(3):
            assert (await world.client.post("/upload", headers={"X-API-Key": "wrong"})).status_code == 401
        await world.upload()


async def test_a_closed_service_keeps_its_health_open(new_world: OpenWorld) -> None:
    async with new_world(require_api_key=True) as world:
        assert (await world.client.get("/account")).status_code == 401
        assert (await world.client.get("/account", headers=make_key(world, "bench", "free"))).status_code == 200
        for path in OPEN_PATHS:
            assert (await world.client.get(path)).status_code in (200, 307), path


async def test_a_refusal_has_the_body_and_the_headers_of_any_error(new_world: OpenWorld) -> None:
    async with new_world(rate_limit_per_minute=1) as world:
        await world.upload()
        refused = await world.client.post("/upload")

    assert refused.status_code == 429
    assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert refused.headers["x-content-type-options"] == "nosniff"
    assert "connection" not in refused.headers


async def test_every_route_that_changes_something_is_in_the_table_of_costs_or_free_on_purpose(world: World) -> None:
    free = {("POST", "/cancel/{job_id}"), ("DELETE", "/cleanup/{job_id}")}
    routes = {
        (method.upper(), path)
        for path, operations in (await world.client.get("/openapi.json")).json()["paths"].items()
        for method in operations
        if method != "get"
    }

    assert routes == set(COSTS) | free


async def test_refusals_at_the_door_are_documented(world: World) -> None:
    paths = (await world.client.get("/openapi.json")).json()["paths"]
    for method, path in COSTS:
        assert {"401", "429"} <= set(paths[path][method.lower()]["responses"]), path
