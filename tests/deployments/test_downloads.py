"""Downloads from a folder and from S3: ranges, tags, resuming, and storage that fails on the way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from deployments import downloads
from deployments.downloads import artifact_response
from deployments.errors import install_error_handlers
from pipeline.errors import StorageError
from pipeline.jobs.artifacts import ArtifactStat, ArtifactStore, open_artifacts
from tests.servers.bad_s3 import closed_port
from tests.servers.s3 import use_s3

MIB = 1024 * 1024
DATA = bytes(range(251)) * 12_000  # three pieces of S3
URL = "/download/mask_0.png"


def app_of(artifacts: ArtifactStore) -> FastAPI:
    app = FastAPI()
    install_error_handlers(app)

    @app.head("/download/{name}")
    @app.get("/download/{name}")
    async def download(name: str, request: Request) -> Response:
        return await artifact_response(request, artifacts, "job", f"r1.{name}", name)

    return app


def client_of(artifacts: ArtifactStore) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app_of(artifacts)), base_url="http://test")


@asynccontextmanager
async def served(artifacts: ArtifactStore) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a real server, over a real connection."""
    server = uvicorn.Server(uvicorn.Config(app_of(artifacts), port=0, log_level="critical", lifespan="off"))
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        server.should_exit = True
        await running


@pytest.fixture
async def client(artifacts: ArtifactStore) -> AsyncIterator[httpx.AsyncClient]:
    artifacts.write("job", "r1.mask_0.png", DATA)
    artifacts.write("job", "r1.empty.png", b"")
    async with client_of(artifacts) as client:
        yield client


class TestWhole:
    async def test_the_file_comes_under_its_own_name(self, client: httpx.AsyncClient) -> None:
        answer = await client.get(URL)
        assert answer.status_code == 200
        assert answer.content == DATA
        assert answer.headers["content-disposition"] == 'attachment; filename="mask_0.png"'
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["x-content-type-options"] == "nosniff"

    async def test_an_empty_file_is_an_empty_answer(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/download/empty.png")
        assert (answer.status_code, answer.content, answer.headers["content-length"]) == (200, b"", "0")

    async def test_a_file_that_is_not_there_is_told_by_the_name_asked_for(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/download/mask_9.png")
        assert answer.status_code == 404
        assert answer.json()["error_code"] == "FILE_NOT_FOUND"
        assert answer.json()["filename"] == "mask_9.png"

    async def test_head_tells_everything_but_the_file(self, client: httpx.AsyncClient) -> None:
        whole, head = await client.get(URL), await client.head(URL, headers={"Range": "bytes=0-9"})
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "accept-ranges", "content-disposition"):
            assert head.headers[name] == whole.headers[name]


class TestRanges:
    @pytest.mark.parametrize(
        ("wanted", "start", "stop"),
        [
            ("bytes=0-99", 0, 100),
            ("bytes=0-0", 0, 1),
            ("bytes=100-", 100, None),
            ("bytes=-70", -70, None),
            (f"bytes={MIB - 1}-{MIB}", MIB - 1, MIB + 1),
            (f"bytes=3-{2 * MIB + 5}", 3, 2 * MIB + 6),
            ("bytes=500-99999999", 500, None),
            ("bytes=-99999999", 0, None),
        ],
    )
    async def test_a_range_is_that_part_of_the_file(
        self, client: httpx.AsyncClient, wanted: str, start: int, stop: int | None
    ) -> None:
        answer = await client.get(URL, headers={"Range": wanted})
        part, first = DATA[start:stop], start % len(DATA)
        assert answer.status_code == 206
        assert answer.content == part
        assert answer.headers["content-length"] == str(len(part))
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(DATA)}"

    @pytest.mark.parametrize("wanted", [f"bytes={len(DATA)}-", "bytes=99999999-999999999", "bytes=-0"])
    async def test_a_range_outside_the_file_is_refused_with_its_size(
        self, client: httpx.AsyncClient, wanted: str
    ) -> None:
        answer = await client.get(URL, headers={"Range": wanted})
        assert answer.status_code == 416
        assert answer.json()["error_code"] == "RANGE_NOT_SATISFIABLE"
        assert answer.headers["content-range"] == f"bytes */{len(DATA)}"

    async def test_an_empty_file_has_no_range(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/download/empty.png", headers={"Range": "bytes=0-"})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == "bytes */0"

    @pytest.mark.parametrize("wanted", ["bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,5-6", "lines=0-5"])
    async def test_a_range_we_do_not_understand_is_the_whole_file(self, client: httpx.AsyncClient, wanted: str) -> None:
        answer = await client.get(URL, headers={"Range": wanted})
        assert (answer.status_code, len(answer.content)) == (200, len(DATA))


class TestTags:
    async def test_if_range_with_the_files_tag_resumes(self, client: httpx.AsyncClient) -> None:
        tag = (await client.head(URL)).headers["etag"]
        answer = await client.get(URL, headers={"Range": "bytes=10-19", "If-Range": tag})
        assert (answer.status_code, answer.content) == (206, DATA[10:20])

    @pytest.mark.parametrize("tag", ['"another"', 'W/"{}"', "Wed, 21 Oct 2015 07:28:00 GMT"])
    async def test_if_range_with_another_tag_starts_again(self, client: httpx.AsyncClient, tag: str) -> None:
        given = tag.format((await client.head(URL)).headers["etag"].strip('"'))
        answer = await client.get(URL, headers={"Range": "bytes=10-19", "If-Range": given})
        assert (answer.status_code, len(answer.content)) == (200, len(DATA))

    async def test_a_file_replaced_between_two_parts_starts_again(
        self, client: httpx.AsyncClient, artifacts: ArtifactStore
    ) -> None:
        tag = (await client.get(URL, headers={"Range": "bytes=0-9"})).headers["etag"]
        artifacts.write("job", "r1.mask_0.png", b"n" * len(DATA))
        answer = await client.get(URL, headers={"Range": "bytes=10-", "If-Range": tag})
        assert (answer.status_code, answer.content) == (200, b"n" * len(DATA))
        assert answer.headers["etag"] != tag

    @pytest.mark.parametrize("given", ["{}", '"x", {}', "W/{}", "*"])
    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    async def test_a_file_the_client_has_is_not_sent_again(
        self, client: httpx.AsyncClient, method: str, given: str
    ) -> None:
        tag = (await client.head(URL)).headers["etag"]
        answer = await client.request(method, URL, headers={"If-None-Match": given.format(tag)})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)

    async def test_a_file_the_client_has_not_is_sent(self, client: httpx.AsyncClient) -> None:
        assert (await client.get(URL, headers={"If-None-Match": '"another"'})).status_code == 200


class Interrupted:
    """A store in whose downloads something happens after the first piece."""

    def __init__(self, artifacts: ArtifactStore) -> None:
        self._artifacts = artifacts
        self.replaces = True

    def stat(self, job_id: str, name: str) -> ArtifactStat:
        return self._artifacts.stat(job_id, name)

    def chunks(self, job_id: str, name: str, start: int, stop: int, *, etag: str | None = None) -> Iterator[bytes]:
        for number, chunk in enumerate(self._artifacts.chunks(job_id, name, start, stop, etag=etag)):
            yield chunk
            if number == 0 and self.replaces:
                self._artifacts.write(job_id, name, b"n" * len(DATA))
            elif number == 0:
                raise StorageError("The disk broke.")


async def fetch(client: httpx.AsyncClient, into: bytearray) -> None:
    """Fills ``into`` as far as the download comes."""
    async with client.stream("GET", URL) as answer:
        async for chunk in answer.aiter_bytes():
            into += chunk


class TestTornDownloads:
    async def test_a_file_replaced_on_the_way_never_mixes(self, artifacts: ArtifactStore) -> None:
        """The client gets the old file to its end, or sees that the answer is cut off."""
        artifacts.write("job", "r1.mask_0.png", DATA)
        got = bytearray()
        async with served(Interrupted(artifacts)) as client:  # type: ignore[arg-type]
            try:
                await fetch(client, got)
            except httpx.RemoteProtocolError:
                assert 0 < len(got) < len(DATA)
            else:
                assert len(got) == len(DATA)
        assert DATA.startswith(bytes(got))

    async def test_a_download_that_breaks_off_is_seen_and_resumed(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "r1.mask_0.png", DATA)
        broken = Interrupted(artifacts)
        broken.replaces = False
        got = bytearray()
        async with served(broken) as client:  # type: ignore[arg-type]
            with pytest.raises(httpx.RemoteProtocolError):
                await fetch(client, got)
        async with served(artifacts) as client:
            tag = (await client.head(URL)).headers["etag"]
            rest = await client.get(URL, headers={"Range": f"bytes={len(got)}-", "If-Range": tag})
        assert rest.status_code == 206
        assert got + rest.content == DATA


class TestStorageThatFails:
    @pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-9"}], ids=["whole", "range"])
    async def test_storage_out_of_reach_is_a_503(
        self, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
    ) -> None:
        use_s3(monkeypatch, closed_port())
        async with client_of(open_artifacts("s3://secret-bucket/p")) as client:
            answer = await client.get(URL, headers=headers)
        assert answer.status_code == 503
        assert answer.json()["error_code"] == "STORAGE_UNAVAILABLE"
        assert answer.headers["retry-after"] == "5"
        assert "secret" not in answer.text
        assert "127.0.0.1" not in answer.text

    async def test_a_file_replaced_before_its_first_byte_is_no_200(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "r1.mask_0.png", DATA)

        class Replaced(Interrupted):
            def stat(self, job_id: str, name: str) -> ArtifactStat:
                stat = super().stat(job_id, name)
                self._artifacts.write(job_id, name, b"n" * len(DATA))
                return stat

        async with client_of(Replaced(artifacts)) as client:  # type: ignore[arg-type]
            answer = await client.get(URL)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "replaced" in answer.json()["detail"]

    async def test_a_folder_that_hangs_is_a_503(self, monkeypatch: pytest.MonkeyPatch) -> None:
        release = threading.Event()

        class Hanging(Interrupted):
            def stat(self, job_id: str, name: str) -> ArtifactStat:
                release.wait(30)
                return ArtifactStat(0, "x")

        monkeypatch.setattr(downloads, "_ANSWER_WITHIN_S", 0.2)
        try:
            async with client_of(Hanging(open_artifacts("unused"))) as client:  # type: ignore[arg-type]
                answers = await asyncio.gather(*(client.get(URL) for _ in range(40)))
            await asyncio.wait_for(asyncio.to_thread(threading.get_ident), 5)  # other work goes on meanwhile
        finally:
            release.set()
        assert [answer.status_code for answer in answers] == [503] * 40
