"""Who is let in: keys that are known, unknown, revoked or missing, and pages that need none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import httpx
import pytest
from fastapi import FastAPI, Request

from deployments.client_address import TrustedProxies
from deployments.clients import Client, ClientDep
from deployments.errors import install_error_handlers
from deployments.identification import OPEN_PATHS, Identification
from pipeline.errors import Overloaded
from pipeline.jobs.api_keys import ApiKey

GOOD = "cc_00000000_" + 40 * "0"


async def find_key(key: str) -> ApiKey | None:
    return ApiKey("00000000", "owner", "bench", "pro", 0.0, None, None) if key == GOOD else None


def create(**options: object) -> httpx.AsyncClient:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    install_error_handlers(app)

    @app.api_route("/{path:path}", methods=["GET", "POST", "OPTIONS"])
    async def who(path: str, client: ClientDep) -> dict[str, str | None]:
        return {**vars(client), "identity": client.identity}

    app.add_middleware(Identification, **{"proxies": TrustedProxies(), "find_key": find_key, **options})
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://clearcut")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with create() as opened:
        yield opened


@pytest.fixture
async def closed() -> AsyncIterator[httpx.AsyncClient]:
    async with create(require_key=True) as opened:
        yield opened


async def test_without_a_key_a_client_is_its_address(client: httpx.AsyncClient) -> None:
    assert (await client.post("/upload")).json() == {
        "address": "127.0.0.1",
        "key_id": None,
        "name": None,
        "tier": "anonymous",
        "identity": "127.0.0.1",
    }


async def test_with_a_key_a_client_is_the_keys_owner(client: httpx.AsyncClient) -> None:
    answer = await client.post("/upload", headers={"X-API-Key": GOOD})

    assert answer.json() == {
        "address": "127.0.0.1",
        "key_id": "owner",
        "name": "bench",
        "tier": "pro",
        "identity": "key:owner",
    }


@pytest.mark.parametrize("key", ["", "nonsense", "cc_00000000_" + 40 * "1", "kéy"])
async def test_an_unknown_key_is_refused(client: httpx.AsyncClient, key: str) -> None:
    answer = await client.post("/upload", headers=[(b"x-api-key", key.encode("latin-1"))])

    assert answer.status_code == 401
    assert answer.json()["error_code"] == "UNAUTHORIZED"
    assert answer.headers["www-authenticate"] == 'ApiKey header="X-API-Key"'
    assert "connection" not in answer.headers


async def test_a_refused_body_without_an_end_is_cut_off(client: httpx.AsyncClient) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"1"

    answer = await client.post("/upload", headers={"X-API-Key": "nonsense"}, content=parts())

    assert (answer.status_code, answer.headers["connection"]) == (401, "close")


async def test_two_keys_are_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/status/7", headers=[("X-API-Key", GOOD), ("X-API-Key", GOOD)])

    assert answer.status_code == 401


async def test_a_closed_service_asks_for_a_key(closed: httpx.AsyncClient) -> None:
    without, with_key = await closed.get("/status/7"), await closed.get("/status/7", headers={"X-API-Key": GOOD})

    assert (without.status_code, with_key.status_code) == (401, 200)
    assert without.json()["detail"] == "This service asks for an API key, in the header X-API-Key."


@pytest.mark.parametrize("path", [*sorted(OPEN_PATHS), "/studio/", "/studio/studio.js"])
async def test_health_and_documentation_stay_open(closed: httpx.AsyncClient, path: str) -> None:
    assert (await closed.get(path)).status_code == 200
    assert (await closed.get(path, headers={"X-API-Key": "nonsense"})).status_code == 200


@pytest.mark.parametrize("path", ["/healthz/", "/health/../status/7", "/studio", "/readyzz", "/nowhere"])
async def test_nothing_else_is_open(closed: httpx.AsyncClient, path: str) -> None:
    assert (await closed.get(path)).status_code == 401


async def test_a_browser_may_ask_first_whether_it_may_send_a_key(closed: httpx.AsyncClient) -> None:
    assert (await closed.options("/upload")).status_code == 200


@pytest.mark.parametrize(("error", "retry_after"), [(TimeoutError(), "5"), (Overloaded("Busy.", retry_after=7), "7")])
async def test_a_key_that_cannot_be_checked_is_not_called_unknown(error: Exception, retry_after: str) -> None:
    async def away(key: str) -> ApiKey | None:
        raise error

    async with create(find_key=away) as client:
        answer = await client.post("/upload", headers={"X-API-Key": GOOD})

    assert (answer.status_code, answer.json()["error_code"]) == (503, "OVERLOADED")
    assert answer.headers["retry-after"] == retry_after


async def test_nobody_on_the_same_host_can_pretend_to_be_elsewhere(client: httpx.AsyncClient) -> None:
    answer = await client.get("/status/7", headers={"X-Forwarded-For": "203.0.113.9"})

    assert answer.json()["address"] == "127.0.0.1"


async def test_a_proxy_of_ours_tells_where_a_client_is() -> None:
    async with create(proxies=TrustedProxies("127.0.0.0/8")) as client:
        sent = [("X-Forwarded-For", "1.1.1.1"), ("X-Forwarded-For", "2001:db8:0:7::1")]
        answer = await client.get("/status/7", headers=sent)

    assert (answer.json()["address"], answer.json()["identity"]) == ("2001:db8:0:7::1", "2001:db8:0:7::/64")


async def test_a_socket_without_the_key_is_closed() -> None:
    sent: list[dict[str, object]] = []

    async def app(scope: object, receive: object, send: Callable[..., object]) -> None:
        raise AssertionError("It was let in.")

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    door = Identification(app, proxies=TrustedProxies(), find_key=find_key, require_key=True)
    await door({"type": "websocket", "path": "/preview", "headers": [], "client": None}, None, send)  # type: ignore[arg-type]

    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_without_the_middleware_a_client_is_its_peer() -> None:
    request = Request({"type": "http", "client": ("192.0.2.1", 5), "headers": []})
    from deployments.clients import client_of

    assert client_of(request) == Client("192.0.2.1")
