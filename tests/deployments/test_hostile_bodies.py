"""What hostile clients put into forms, JSON, names and paths: a 4xx at once, and no file is touched."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.routes.background_removal import _result_name, content_disposition
from tests.deployments.conftest import OpenWorld
from tests.deployments.world import World
from tests.stub_models import encode, photo

REMOVE = "/api/background-removal/remove"
PICTURE = encode(photo())
AT_ONCE_S = 5.0
"""Generous: the machine may be busy. What is refused here must not take the minutes its size could cost."""

JSON = {"Content-Type": "application/json"}


def assert_refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    assert answer.status_code in statuses, answer.text[:500]
    body: dict[str, Any] = answer.json()
    assert {"detail", "error_code", "request_id"} <= set(body)
    assert len(answer.content) < 8192
    return body


def form(*parts: bytes, boundary: str = "bOuNd") -> dict[str, Any]:
    mark = f"--{boundary}".encode()
    content = b"".join(mark + b"\r\n" + part + b"\r\n" for part in parts) + mark + b"--\r\n"
    return {"content": content, "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


def part(disposition: bytes, data: bytes = b"x", more: bytes = b"") -> bytes:
    return b"Content-Disposition: form-data; " + disposition + b"\r\n" + more + b"\r\n" + data


IMAGE = part(b'name="image"; filename="a.png"', PICTURE)


class TestForms:
    @pytest.mark.parametrize(
        "parts",
        [
            pytest.param([IMAGE, IMAGE], id="two files"),
            pytest.param([IMAGE, *(part(b'name="f%d"' % i) for i in range(21))], id="too many fields"),
            pytest.param([part(b'name="%s"' % (b"n" * 101)), IMAGE], id="long name"),
            pytest.param([part(b'name="%s"' % (b"n" * 100_000)), IMAGE], id="huge name"),
            pytest.param([part(b'name="f"', b"v" * 65_537), IMAGE], id="huge field"),
            pytest.param([part(b'name="f"', more=b"X-Y: z\r\n" * 100), IMAGE], id="many headers"),
            pytest.param([part(b'name="f"', more=b"X-Y: " + b"z" * 100_000 + b"\r\n"), IMAGE], id="huge header"),
            pytest.param([part(b"filename=a.png", PICTURE)], id="no name"),
            pytest.param([b"\r\nbody"], id="no headers"),
            pytest.param([b"no form at all"], id="no part"),
        ],
    )
    async def test_a_form_beyond_its_limits_is_refused(self, client: httpx.AsyncClient, parts: list[bytes]) -> None:
        started = time.monotonic()
        assert assert_refused(await client.post(REMOVE, **form(*parts)), 422)["error_code"] == "INVALID_REQUEST"
        assert time.monotonic() - started < AT_ONCE_S

    @pytest.mark.parametrize(
        "content_type",
        [
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "multipart/form-data; boundary=" + "b" * 71,
            "multipart/form-data-not; boundary=bOuNd",
            "multipart/mixed; boundary=bOuNd",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=bOuNd; charset=punycode",
            "multipart/form-data; boundary=bOuNd; charset=idna",
            "multipart/form-data; boundary=bOuNd; charset=zlib",
            "multipart/form-data; boundary=bOuNd; charset=utf-16",
        ],
    )
    async def test_a_type_that_is_no_such_form_is_refused(self, client: httpx.AsyncClient, content_type: str) -> None:
        sent = form(part(b'name="\xff\xfe\x00"', b"\xff" * 99), IMAGE)
        answer = await client.post(REMOVE, content=sent["content"], headers={"Content-Type": content_type})
        assert_refused(answer, 422)

    async def test_a_declared_type_that_is_no_image_is_a_lie_or_a_mistake(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(REMOVE, files={"image": ("a.png", PICTURE, "text/html")})
        assert assert_refused(answer, 400)["error_code"] == "INVALID_FORMAT"

    async def test_content_decides_between_image_types(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(REMOVE, files={"image": ("a.jpg", PICTURE, "image/jpeg")})
        assert answer.status_code == 200


class TestJson:
    @pytest.mark.parametrize(
        ("text", "statuses"),
        [
            pytest.param(b"[" * 600_000, (422,), id="nesting"),
            pytest.param(b'{"coordinates_list":' + b"[" * 600_000, (422,), id="nested field"),
            pytest.param(b'{"job_id":"a","job_id":"b"}', (422,), id="key twice"),
            pytest.param(b'{"job_id":"J","coordinates_list":[[NaN,1]]}', (400,), id="NaN"),
            pytest.param(b'{"job_id":"J","coordinates_list":[[1,Infinity]]}', (400,), id="Infinity"),
            pytest.param(b'{"job_id":"J","coordinates_list":[[-Infinity,1]]}', (400,), id="-Infinity"),
            pytest.param(b'{"job_id":"J","coordinates_list":[[1e308,1]]}', (400,), id="1e308"),
            pytest.param(b'{"job_id":"J","coordinates_list":[[-1e308,1e999]]}', (400,), id="1e999"),
            pytest.param(b'{"job_id":"J","coordinates_list":[[1' + b"0" * 5000 + b",1]]}", (422,), id="5000 digits"),
            pytest.param(
                b'{"job_id":"J","coordinates_list":[' + b"[1,1]," * 150_000 + b"[1,1]]}", (400,), id="objects"
            ),
            pytest.param(
                b'{"job_id":"J","coordinates_list":[[' + b"[1,1]," * 150_000 + b"[1,1]]]}", (400,), id="points"
            ),
            pytest.param(b'{"job_id":"J","labels":[' + b'"x",' * 150_000 + b"1]}", (400,), id="labels"),
            pytest.param(
                b'{"job_id":"J","coordinates_list":[' + b"[1,1]," * 999_999 + b"[1,1]]}", (413,), id="a million points"
            ),
            pytest.param(b"{" + b",".join(b'"k%d":1' % i for i in range(90_000)) + b"}", (422,), id="unknown fields"),
            pytest.param(b'{"' + b"k" * 900_000 + b'":1}', (422,), id="huge key"),
            pytest.param(b'{"\\ud800":1}', (422,), id="lone surrogate in a key"),
            pytest.param(b'{"job_id":"\\ud800","coordinates_list":[[1,1]]}', (404, 422), id="lone surrogate"),
            pytest.param(b'{"job_id":"\\u0000","coordinates_list":[[1,1]]}', (404, 422), id="zero character"),
            pytest.param(b'{"job_id":' + b'"' + b"j" * 900_000 + b'","coordinates_list":[[1,1]]}', (404, 422), id="id"),
            pytest.param(b"\xff\xfe{}", (422,), id="not UTF-8"),
            pytest.param(b"null-", (422,), id="no JSON"),
            pytest.param(b"[]", (422,), id="a list"),
        ],
    )
    async def test_hostile_json_is_refused_at_once(self, world: World, text: bytes, statuses: tuple[int, ...]) -> None:
        text = text.replace(b'"J"', json.dumps(await world.upload()).encode())
        started = time.monotonic()
        assert_refused(await world.client.post("/segment", content=text, headers=JSON), *statuses)
        assert time.monotonic() - started < AT_ONCE_S

    @pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "image/png", ""])
    async def test_json_under_another_type_is_refused(self, world: World, content_type: str) -> None:
        body = json.dumps({"job_id": await world.upload(), "coordinates_list": [[1, 1]]})
        answer = await world.client.post("/segment", content=body, headers={"Content-Type": content_type})
        assert_refused(answer, 422)

    async def test_what_stands_in_the_query_is_read_as_strictly(self, world: World) -> None:
        job_id = await world.upload()
        for text in ("[[1,1]", "[[NaN,1]]", "[" * 20_000, '{"a":1,"a":2}'):
            answer = await world.client.post("/segment", params={"job_id": job_id, "coordinates_list": text})
            assert_refused(answer, 400 if "NaN" in text else 422)


TRAVERSALS = [
    "..%2f..%2fetc%2fpasswd",
    "..%2F..%2F..%2Fetc%2Fpasswd",
    "%2e%2e%2f%2e%2e%2fsecret",
    "..%5c..%5csecret",
    "%2fetc%2fpasswd",
    "%2e%2e",
    "....%2f%2fsecret",
    "..%252fsecret",
    "..%c0%afsecret",
    "secret%00.png",
    "%00",
    "a" * 5000,
    "%ff%fe",
    "~root",
    "file:%2f%2f%2fetc%2fpasswd",
]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and "jobs.db" not in p.name
    }


class TestTraversal:
    @pytest.mark.parametrize("hostile", TRAVERSALS)
    async def test_no_path_leads_out_of_a_job(self, world: World, tmp_path: Path, hostile: str) -> None:
        (tmp_path / "secret").write_bytes(b"SECRET")
        job_id = await world.upload()
        before = snapshot(tmp_path)
        calls = [
            ("GET", f"/download/{job_id}/{hostile}"),
            ("GET", f"/download/{hostile}/original.png"),
            ("GET", f"/download/{hostile}/{hostile}"),
            ("GET", f"/status/{hostile}"),
            ("GET", f"/events/{hostile}"),
            ("POST", f"/cancel/{hostile}"),
            ("DELETE", f"/cleanup/{hostile}"),
        ]
        for method, path in calls:
            answer = await world.client.request(method, path)
            assert 400 <= answer.status_code < 500, (method, path, answer.text)
            assert b"SECRET" not in answer.content
            assert b"root:" not in answer.content
            assert str(tmp_path) not in answer.text
            assert answer.json()["error_code"]
        assert snapshot(tmp_path) == before

    @pytest.mark.parametrize("hostile", ["../../secret", "/etc/passwd", "..\\secret", "a\x00b", "..", "."])
    async def test_no_field_is_used_as_a_path(self, world: World, tmp_path: Path, hostile: str) -> None:
        (tmp_path / "secret").write_bytes(b"SECRET")
        job_id = await world.upload()
        before = snapshot(tmp_path)
        segment: dict[str, Any] = {"job_id": hostile, "coordinates_list": [[40, 40]]}
        assert_refused(await world.client.post("/segment", json=segment), 404, 422)
        segment = {"job_id": job_id, "coordinates_list": [[40, 40]], "callback_url": hostile}
        assert_refused(await world.client.post("/segment", json=segment), 400, 422)
        segment["callback_url"] = "file:///etc/passwd"
        assert_refused(await world.client.post("/segment", json=segment), 400, 422)
        assert snapshot(tmp_path) == before

    async def test_names_and_keys_of_uploads_choose_no_place(self, world: World, tmp_path: Path) -> None:
        for index, hostile in enumerate(["../../evil.png", "/tmp/evil.png", "C:\\evil.png", "a\x00b.png"]):
            files = {"file": (hostile, PICTURE, "image/png")}
            key = ["../../evil", "/etc/passwd", "..\\evil", "evil%00"][index]
            answer = await world.client.post("/upload", files=files, headers={"Idempotency-Key": key})
            assert answer.status_code == 200
        assert not [name for name in snapshot(tmp_path) if "evil" in name]
        assert {Path(name).name for name in snapshot(tmp_path)} == {"original.png"}


class TestResponseNames:
    @pytest.mark.parametrize(
        "name",
        [
            "a\r\nSet-Cookie: x=1.png",
            'a"; filename="evil.exe',
            "photo\u202egnp.exe",
            "\u2066\u2069\u200b.png",
            "n" * 10_000 + ".png",
            "....",
            "..",
            "",
            "../../etc/passwd.png",
            "..\\..\\evil.png",
            "\x00\x07\x1b[31m.png",
            "\u96ea\u666f.jpg",
            "%0d%0aX: y.png",
            "CON.png",
        ],
    )
    def test_a_result_gets_a_harmless_name(self, name: str) -> None:
        header = content_disposition(_result_name(name))
        assert header.isascii()
        assert header.isprintable()
        assert len(header) < 1200
        plain = header.split('"')[1]
        assert header.count('"') == 2
        assert plain.endswith(".png")
        assert not set(plain) & set("/\\:*?<>|;%")
        assert not plain.startswith(".")
        for hidden in ("%E2%80%AE", "%E2%81%A6", "%0D", "%0A", "%00", "%2F", "%5C", "%22"):
            assert hidden not in header.upper()

    async def test_such_a_name_reaches_the_header_over_http(self, client: httpx.AsyncClient) -> None:
        hostile = part(b'name="image"; filename="a%0d%0aX-Evil: 1\\"; b=.png"', PICTURE)
        answer = await client.post(REMOVE, **form(hostile))
        assert answer.status_code == 200
        assert "x-evil" not in answer.headers
        assert answer.headers["content-disposition"].count('"') == 2


async def test_a_job_of_a_hostile_upload_is_named_by_us(new_world: OpenWorld) -> None:
    async with new_world() as world:
        files = {"file": ("../x\u202e.png", PICTURE, "image/png")}
        job_id = (await world.client.post("/upload", files=files)).json()["job_id"]
        answer = await world.client.get(f"/download/{job_id}/original.png")
        assert answer.headers["content-disposition"] == 'attachment; filename="original.png"'
        assert answer.headers["cache-control"] == "no-store"
