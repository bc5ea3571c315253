"""Every answer: its headers, who else's pages may read it, and the line that the log keeps of it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import multiprocessing
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from deployments.clients import Client, remember_client
from deployments.log_file import SharedLogFile, log_to_file
from deployments.proxy_door import ProxyDoor
from deployments.request_log import RequestLog
from deployments.security_headers import SECURITY_HEADERS
from pipeline.config import Settings
from pipeline.jobs.api_keys import ApiKeys
from pipeline.origins import parse_origins
from tests.deployments.conftest import OpenWorld
from tests.deployments.world import World
from tests.stub_models import EllipseMatting, encode, photo

REMOVE = "/api/background-removal/remove"
FORM = {"image": ("holiday-in-rome.png", encode(photo()), "image/png")}


class TestHeaders:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 200),
            ("GET", "/health", 200),
            ("GET", "/openapi.json", 200),
            ("GET", "/nowhere", 404),
            ("GET", REMOVE, 405),
            ("POST", "/upload", 422),
            ("GET", "/status/nobody", 404),
            ("GET", "/studio/", 307),
        ],
    )
    async def test_every_answer_has_them(self, client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert "server" not in answer.headers
        if status >= 400:
            assert {"detail", "error_code", "request_id"} <= set(answer.json())

    async def test_results_and_refusals_and_accidents_have_them(self, new_world: OpenWorld) -> None:
        class Broken(EllipseMatting):
            async def alpha(self, image: Any) -> Any:
                raise RuntimeError("/opt/secret/path.py")

        async with new_world() as world:
            answer = await world.client.post(REMOVE, files=FORM)
            assert answer.status_code == 200
            assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
            large = await world.client.post(REMOVE, content=b"", headers={"Content-Length": str(2**40)})
            assert large.status_code == 413
            assert {name: large.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
        async with new_world(matting=Broken()) as world:
            answer = await world.client.post(REMOVE, files=FORM)
            assert answer.status_code == 500
            assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
            assert "secret" not in answer.text + str(answer.headers)

    async def test_the_documentation_may_run_its_own_script_and_nothing_else(self, client: httpx.AsyncClient) -> None:
        page = await client.get("/docs")
        assert page.status_code == 200
        policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
        scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
        assert len(scripts) == 1
        digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy["script-src"].split()
        assert "'unsafe-inline'" not in policy["script-src"]
        assert "*" not in page.headers["content-security-policy"]
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(loaded) == 3
        assert all(address.startswith("https://cdn.jsdelivr.net/npm/swagger-ui-dist@5/") for address in loaded)
        assert (await client.get("/redoc")).status_code == 404


class TestCors:
    async def test_it_is_off(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/health", headers={"Origin": "https://shop.example"})
        assert not [name for name in answer.headers if name.startswith("access-control")]
        preflight = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        assert (await client.options("/upload", headers=preflight)).status_code == 405

    async def test_named_origins_may_read_our_headers(self, new_world: OpenWorld) -> None:
        async with new_world(cors_origins="https://shop.example, http://localhost:3000/") as world:
            for path in ("/health", "/status/nobody"):
                answer = await world.client.get(path, headers={"Origin": "https://shop.example"})
                assert answer.headers["access-control-allow-origin"] == "https://shop.example"
                assert "X-Model-Version" in answer.headers["access-control-expose-headers"]
                assert "access-control-allow-credentials" not in answer.headers
            answer = await world.client.get("/health", headers={"Origin": "https://shop.example.evil.example"})
            assert "access-control-allow-origin" not in answer.headers

    async def test_preflights_are_answered_like_everything(self, new_world: OpenWorld) -> None:
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key, content-type"}
        async with new_world(cors_origins="https://shop.example") as world:
            allowed = await world.client.options("/upload", headers={"Origin": "https://shop.example", **asked})
            assert allowed.status_code == 200
            refused = await world.client.options("/upload", headers={"Origin": "https://evil.example", **asked})
            assert refused.status_code == 400
            assert refused.json()["error_code"] == "INVALID_REQUEST"
            assert refused.json()["request_id"] == refused.headers["x-request-id"]
            assert "access-control-allow-origin" not in refused.headers

    async def test_everybody_means_without_credentials(self, new_world: OpenWorld) -> None:
        async with new_world(cors_origins="*") as world:
            answer = await world.client.get("/health", headers={"Origin": "https://x.example", "Cookie": "a=b"})
            assert answer.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in answer.headers

    @pytest.mark.parametrize(
        "text", ["shop.example", "https://a.example/path", "*,https://a.example", "null", "https://*"]
    )
    def test_what_is_no_origin_stops_the_start(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"origin"):
            parse_origins(text)
        with pytest.raises(ValueError, match=r"cors_origins"):
            Settings(_env_file=None, cors_origins=text)


def request_lines(log: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in log.records if getattr(record, "event", "") == "request"]


class TestTheLog:
    async def test_a_removal_leaves_one_line_with_its_stages(
        self, world: World, service_log: pytest.LogCaptureFixture
    ) -> None:
        answer = await world.client.post(f"{REMOVE}?token=hush", files=FORM)
        (line,) = request_lines(service_log)
        assert (line["method"], line["route"], line["status"]) == ("POST", REMOVE, 200)
        assert line["request_id"] == answer.headers["x-request-id"]
        assert line["bytes_in"] == int(answer.request.headers["content-length"])
        assert line["bytes_out"] == len(answer.content)
        assert {"decode", "infer", "total"} <= set(line["stages_ms"])
        assert line["duration_ms"] >= line["stages_ms"]["total"]
        assert "client_name" not in line

    async def test_nothing_that_people_send_stands_in_it(
        self, world: World, service_log: pytest.LogCaptureFixture
    ) -> None:
        job_id = await world.upload()
        await world.client.post(f"{REMOVE}?token=hush", files=FORM, headers={"X-API-Key": "k-secret"})
        await world.client.post(REMOVE, files={"image": ("holiday-in-rome.png", b"no picture", "image/png")})
        await world.client.get(f"/download/{job_id}/holiday-in-rome.png?token=hush")
        await world.client.get(f"/status/{job_id}")
        await world.client.get("/holiday-in-rome?token=hush")
        await world.client.request("HOLIDAY", "/health")
        lines = request_lines(service_log)
        assert [line["route"] for line in lines[3:]] == [
            "/download/{job_id}/{filename}",
            "/status/{job_id}",
            "an unknown path",
            "/health",
        ]
        assert [line.get("error_code") for line in lines[2:4]] == ["INVALID_IMAGE", "FILE_NOT_FOUND"]
        told = " ".join(str(line) for line in lines)
        for secret in ("holiday", "HOLIDAY", "hush", "k-secret", job_id):
            assert secret not in told

    async def test_it_names_the_key_by_its_name(self, service_log: pytest.LogCaptureFixture) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            remember_client(scope, Client("192.0.2.1", "id", "bench", "free"))
            raise RuntimeError

        async def nothing(*_: Any) -> Any: ...

        with pytest.raises(RuntimeError):
            await RequestLog(app)({"type": "http", "method": "GET", "path": "/", "headers": []}, nothing, nothing)
        (line,) = request_lines(service_log)
        assert (line["client_name"], line["status"]) == ("bench", 499)

    async def test_a_key_that_was_sent_has_its_name_in_it(
        self, world: World, service_log: pytest.LogCaptureFixture
    ) -> None:
        with contextlib.closing(ApiKeys(f"sqlite:///{world.folder / 'jobs.db'}")) as keys:
            _, text = keys.create("bench", "free")
        await world.client.get("/account", headers={"X-API-Key": text})
        (line,) = request_lines(service_log)
        assert (line["client_name"], line["route"]) == ("bench", "/account")
        assert text not in str(line)


def write_lines(path: Path, writer: int, count: int) -> None:
    handler = SharedLogFile(path, max_bytes=20_000, older_files=1000)
    for number in range(count):
        handler.handle(logging.makeLogRecord({"msg": f"{writer} {number} {'x' * 80}"}))
    handler.close()


class TestTheLogFile:
    def test_several_processes_share_and_rotate_it_without_losing_a_line(self, tmp_path: Path) -> None:
        path = tmp_path / "logs" / "service.log"
        context = multiprocessing.get_context("spawn")
        writers = [context.Process(target=write_lines, args=(path, writer, 500)) for writer in range(3)]
        for process in writers:
            process.start()
        for process in writers:
            process.join(60)
            assert process.exitcode == 0
        files = [file for file in path.parent.iterdir() if file.suffix != ".lock"]
        assert len(files) > 3
        lines = [line for file in files for line in file.read_text().splitlines()]
        assert sorted(line.split()[:2] for line in lines) == sorted(
            [str(writer), str(number)] for writer in range(3) for number in range(500)
        )
        assert all(line.endswith("x" * 80) for line in lines)
        assert max(file.stat().st_size for file in files) < 21_000

    def test_only_so_many_older_files_stay(self, tmp_path: Path) -> None:
        handler = SharedLogFile(tmp_path / "a.log", max_bytes=10, older_files=2)
        for number in range(6):
            handler.handle(logging.makeLogRecord({"msg": f"line number {number}"}))
        handler.close()
        assert (tmp_path / "a.log").read_text() == "line number 5\n"
        assert (tmp_path / "a.log.2").read_text() == "line number 3\n"
        assert not (tmp_path / "a.log.3").exists()

    def test_logrotate_may_move_it(self, tmp_path: Path) -> None:
        handler = SharedLogFile(tmp_path / "a.log")
        handler.handle(logging.makeLogRecord({"msg": "one"}))
        (tmp_path / "a.log").rename(tmp_path / "moved")
        handler.handle(logging.makeLogRecord({"msg": "two\ud800"}))
        handler.close()
        assert (tmp_path / "a.log").read_text() == "two\\ud800\n"

    async def test_the_service_writes_json_lines_to_it(self, world: World, tmp_path: Path) -> None:
        logger = logging.getLogger("ray.serve")
        before, level = list(logger.handlers), logger.level
        logger.setLevel(logging.INFO)
        path = tmp_path / "service.log"
        try:
            log_to_file(path)
            log_to_file(path)
            await world.client.get("/healthz")
        finally:
            for handler in set(logger.handlers) - set(before):
                handler.close()
            logger.handlers = before
            logger.setLevel(level)
        (line,) = [json.loads(text) for text in path.read_text().splitlines()]
        assert (line["event"], line["route"], line["status"]) == ("request", "/healthz", 200)

    def test_a_file_that_cannot_be_written_leaves_the_service_as_it_is(
        self, tmp_path: Path, service_log: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").touch()
        log_to_file(tmp_path / "file" / "service.log")
        assert "LOG_FILE cannot be written" in service_log.text


class TestTheProxysDoor:
    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("abc-123", True),
            ("x" * 64, True),
            ("x" * 65, False),
            ("<script>", False),
            ("a b", False),
            ("", False),
            ("\u00fc", False),
        ],
    )
    async def test_only_a_harmless_id_is_left(self, given: str, kept: bool) -> None:
        scope = await self.through([(b"x-request-id", given.encode("latin-1"))])
        assert scope["headers"] == ([(b"x-request-id", given.encode("latin-1"))] if kept else [])

    async def test_two_ids_are_none(self) -> None:
        assert (await self.through([(b"x-request-id", b"a"), (b"x-request-id", b"b")]))["headers"] == []

    async def test_headers_that_steer_the_proxy_are_dropped(self) -> None:
        steering = [
            (b"x-request-timeout-seconds", b"0.001"),
            (b"x-request-disconnect-disabled", b"?1"),
            (b"serve_multiplexed_model_id", b"m"),
            (b"accept", b"*/*"),
        ]
        assert (await self.through(steering))["headers"] == [(b"accept", b"*/*")]

    async def through(self, headers: list[tuple[bytes, bytes]]) -> Scope:
        seen: list[Scope] = []
        sent: list[Message] = []

        async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)

        await ProxyDoor(proxy)({"type": "http", "headers": headers}, receive, send)
        assert (b"x-content-type-options", b"nosniff") in sent[0]["headers"]
        return seen[0]
