"""A job made with a key exists for that key alone, on every route; one made without belongs to whoever knows its id."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from deployments.clients import Client
from deployments.owned_jobs import Owners, require_owner
from pipeline.errors import JobNotFound
from pipeline.jobs.api_keys import ApiKeys
from tests.deployments.conftest import OpenWorld
from tests.deployments.world import World
from tests.stub_models import encode, photo

UNKNOWN = 32 * "0"

ROUTES = [
    ("GET", "/status/{job_id}", None),
    ("GET", "/status/{job_id}?wait=5", None),
    ("POST", "/segment", {"job_id": "{job_id}", "coordinates_list": [[5, 5]]}),
    ("POST", "/segment?job_id={job_id}&coordinates_list=[[5,5]]", None),
    ("POST", "/cancel/{job_id}", None),
    ("GET", "/events/{job_id}", None),
    ("GET", "/download/{job_id}/original.png", None),
    ("HEAD", "/download/{job_id}/original.png", None),
    ("GET", "/download/{job_id}/nothing.png", None),
    ("GET", "/download/{job_id}/original.png?format=jpeg", None),
    ("DELETE", "/cleanup/{job_id}", None),
]


class Keyed:
    """A service and the keys of two clients."""

    def __init__(self, world: World, mine: str, theirs: str) -> None:
        self.world = world
        self.mine = {"X-API-Key": mine}
        self.others: dict[str, dict[str, str]] = {"another key": {"X-API-Key": theirs}, "no key": {}}

    async def upload(self, headers: dict[str, str], **more: str) -> httpx.Response:
        files = {"file": ("photo.png", encode(photo()), "image/png")}
        answer = await self.world.client.post("/upload", files=files, headers={**headers, **more})
        assert answer.status_code == 200, answer.text
        return answer

    async def ask(self, route: tuple[str, str, object], job_id: str, headers: dict[str, str]) -> httpx.Response:
        method, path, body = route
        filled = {**body, "job_id": job_id} if isinstance(body, dict) else None
        return await self.world.client.request(method, path.format(job_id=job_id), json=filled, headers=headers)


@pytest.fixture
async def keyed(new_world: OpenWorld, tmp_path: Path) -> AsyncIterator[Keyed]:
    async with new_world() as world:
        with contextlib.closing(ApiKeys(f"sqlite:///{world.folder / 'jobs.db'}")) as keys:
            texts = [keys.create(name, "pro")[1] for name in ("mine", "theirs")]
        yield Keyed(world, *texts)


@pytest.mark.parametrize("who", ["another key", "no key"])
@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1]}")
@pytest.mark.parametrize("seen_before", [False, True])
async def test_the_job_of_a_key_does_not_exist_for_others(
    keyed: Keyed, route: tuple[str, str, object], who: str, seen_before: bool
) -> None:
    job_id = (await keyed.upload(keyed.mine)).json()["job_id"]
    if not seen_before:
        keyed.world.services.owners = Owners()

    refused = await keyed.ask(route, job_id, keyed.others[who])
    unknown = await keyed.ask(route, UNKNOWN, keyed.others[who])

    assert refused.status_code == unknown.status_code == 404
    if route[0] != "HEAD":
        bodies = [answer.json() for answer in (refused, unknown)]
        for body in bodies:
            del body["request_id"]
        assert bodies[0] == bodies[1] == {"detail": "Job not found", "error_code": "JOB_NOT_FOUND"}
    still_there = await keyed.world.client.get(f"/status/{job_id}", headers=keyed.mine)
    assert (still_there.status_code, still_there.json()["status"]) == (200, "uploaded")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route[0]} {route[1]}")
async def test_its_own_key_reaches_it_on_every_route(keyed: Keyed, route: tuple[str, str, object]) -> None:
    job_id = (await keyed.upload(keyed.mine)).json()["job_id"]
    if route[1].startswith("/events"):
        await keyed.world.client.post(f"/cancel/{job_id}", headers=keyed.mine)  # so that the stream ends

    answer = await keyed.ask(route, job_id, keyed.mine)

    assert answer.status_code == 200 or answer.json()["error_code"] == "FILE_NOT_FOUND"


async def test_a_job_made_without_a_key_belongs_to_whoever_knows_its_id(keyed: Keyed) -> None:
    job_id = (await keyed.upload({})).json()["job_id"]

    for headers in (keyed.mine, *keyed.others.values()):
        assert (await keyed.world.client.get(f"/status/{job_id}", headers=headers)).status_code == 200


async def test_a_replaced_key_reaches_the_jobs_of_its_predecessor(keyed: Keyed) -> None:
    job_id = (await keyed.upload(keyed.mine)).json()["job_id"]
    with contextlib.closing(ApiKeys(f"sqlite:///{keyed.world.folder / 'jobs.db'}")) as keys:
        _, text = keys.rotate("mine")

    assert (await keyed.world.client.get(f"/status/{job_id}", headers={"X-API-Key": text})).status_code == 200


async def test_two_keys_may_use_the_same_idempotency_key(keyed: Keyed) -> None:
    again = {"Idempotency-Key": "one"}
    answers = [await keyed.upload(headers, **again) for headers in (keyed.mine, *keyed.others.values(), keyed.mine)]

    ids = [answer.json()["job_id"] for answer in answers]
    assert len(set(ids)) == 3
    assert ids[0] == ids[3]


async def test_the_record_names_the_client(keyed: Keyed) -> None:
    mine = (await keyed.upload(keyed.mine)).json()["job_id"]
    anonymous = (await keyed.upload({})).json()["job_id"]

    record = keyed.world.store.get(mine)
    assert record.key_id is not None
    assert record.client == f"key:{record.key_id}"
    assert (keyed.world.store.get(anonymous).client, keyed.world.store.get(anonymous).key_id) == ("127.0.0.1", None)


async def test_every_route_of_a_job_is_tested_above(world: World) -> None:
    tested = {(method, path.partition("?")[0].replace("original.png", "{filename}")) for method, path, _ in ROUTES}
    of_jobs = {
        (method.upper(), path)
        for path, operations in (await world.client.get("/openapi.json")).json()["paths"].items()
        for method, operation in operations.items()
        if "job_id" in path or "job_id" in str(operation.get("parameters"))
    }

    assert len(of_jobs) == 6
    assert of_jobs <= tested


def test_whose_a_job_is() -> None:
    require_owner(None, Client("192.0.2.1"))
    require_owner("a", Client("192.0.2.1", key_id="a"))
    for client in (Client("192.0.2.1"), Client("192.0.2.1", key_id="b")):
        with pytest.raises(JobNotFound, match=r"^Job not found$"):
            require_owner("a", client)


async def test_what_is_known_of_owners_is_bounded(world: World) -> None:
    owners = Owners(most=2)
    for _ in range(3):
        owners.keep(world.store.get(await world.upload()))

    assert len(owners._key_ids) == 2
