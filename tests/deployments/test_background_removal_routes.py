"""The contract of background removal: both answers, every header, every error body, health."""

from __future__ import annotations

import asyncio
import base64
import re
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from deployments import body_reception
from deployments.model_status import ModelStatus
from deployments.routes.background_removal import content_disposition
from pipeline.errors import GpuMemoryExhausted, InferenceError, ModelNotLoaded, Overloaded
from pipeline.types import EngineInfo
from tests.deployments.conftest import OpenWorld
from tests.deployments.world import World
from tests.stub_models import (
    MATTING_SIZE_HW,
    PATIENCE_S,
    EllipseMatting,
    FailingMatting,
    HeldMatting,
    decode,
    encode,
    photo,
)

REMOVE = "/api/background-removal/remove"
HEALTH = "/api/background-removal/health"
MIB = 1024 * 1024
BOUNDARY = "----boundary"


async def remove(
    client: httpx.AsyncClient,
    data: bytes | None = None,
    *,
    filename: str = "portrait.jpg",
    declared_type: str = "image/png",
    headers: dict[str, str] | None = None,
    **fields: str,
) -> httpx.Response:
    files = {"image": (filename, encode(photo()) if data is None else data, declared_type)}
    return await client.post(REMOVE, files=files, data=fields, headers=headers)


def assert_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body, once it is seen to have the shape of every error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body: dict[str, Any] = answer.json()
    assert body["error_code"] == code
    assert isinstance(body["detail"], str)
    assert body["request_id"] == answer.headers["x-request-id"] != ""
    return body


def png_claiming(width: int, height: int, size_bytes: int = 0) -> bytes:
    """A file whose header says it is so large; no pixels follow, for none may be looked at."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", bytes(max(16, size_bytes))) + chunk(b"IEND", b"")


def raw_form(disposition: str, content: bytes, content_type: str = "image/png") -> dict[str, Any]:
    """A form written by hand, for what a well-behaved client would not send."""
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\nContent-Type: {content_type}\r\n\r\n"
    body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    return {"content": body, "headers": {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}}


class TestAnswers:
    async def test_the_answer_is_an_rgba_png_of_the_photos_own_size(self, client: httpx.AsyncClient) -> None:
        answer = await remove(client)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        assert decode(answer.content).shape == (90, 120, 4)

    async def test_the_middle_is_kept_and_the_corners_vanish(self, client: httpx.AsyncClient) -> None:
        cutout = decode((await remove(client)).content)
        assert cutout[45, 60, 3] == 255
        assert cutout[0, 0, 3] == cutout[-1, -1, 3] == 0

    async def test_colours_of_the_opaque_foreground_are_the_photos(self, client: httpx.AsyncClient) -> None:
        cutout = decode((await remove(client)).content)
        np.testing.assert_array_equal(cutout[45, 60, :3], photo()[45, 60])

    async def test_the_model_sees_the_photo_at_its_own_input_size(self, new_world: OpenWorld) -> None:
        matting = EllipseMatting()
        async with new_world(matting=matting) as world:
            await remove(world.client)
        assert matting.seen == [(*MATTING_SIZE_HW, 3)]

    async def test_every_header_of_the_specification_is_there(self, client: httpx.AsyncClient) -> None:
        answer = await remove(client)
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.headers["x-original-size"] == "120x90"
        assert answer.headers["x-model-version"] == "stub-matting"
        assert re.fullmatch(r"\d+\.\d", answer.headers["x-processing-time-ms"])
        pattern = r'attachment; filename="portrait_nobg_\d{8}_\d{6}\.png"'
        assert re.fullmatch(pattern, answer.headers["content-disposition"])

    async def test_headers_tell_how_much_is_foreground_and_how_sure_the_model_was(
        self, client: httpx.AsyncClient
    ) -> None:
        answer = await remove(client)
        alpha = decode((await remove(client, smoothing="false")).content)[..., 3]
        assert float(answer.headers["x-mask-coverage"]) == pytest.approx(alpha.mean() / 255, abs=0.02)
        assert 0.5 < float(answer.headers["x-mask-confidence"]) <= 1

    async def test_server_timing_names_the_stages_in_their_order(self, client: httpx.AsyncClient) -> None:
        entries = (await remove(client)).headers["server-timing"].split(", ")
        assert all(re.fullmatch(r"[a-z]+;dur=\d+(\.\d+)?(e-\d+)?", entry) for entry in entries)
        names = [entry.partition(";")[0] for entry in entries]
        assert names == ["decode", "resize", "wait", "infer", "refine", "compose", "encode", "total"]

    async def test_return_base64_answers_the_same_picture_as_json(self, client: httpx.AsyncClient) -> None:
        plain = await remove(client)
        body = (await remove(client, return_base64="true")).json()
        kind, _, data = body["processed_image"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == plain.content

    async def test_return_base64_tells_what_was_done(self, client: httpx.AsyncClient) -> None:
        answer = await remove(client, return_base64="true", smoothing="false")
        body = answer.json()
        assert body["success"] is True
        info = body["processing_info"]
        assert str(info.pop("processing_time_ms")) == answer.headers["x-processing-time-ms"]
        assert str(info.pop("mask_coverage")) == answer.headers["x-mask-coverage"]
        assert str(info.pop("mask_confidence")) == answer.headers["x-mask-confidence"]
        assert info == {
            "original_size": "120x90",
            "output_size": "120x90",
            "background_removed": True,
            "edge_smoothing_applied": False,
            "model_version": "stub-matting",
            "tensorrt_enabled": False,
        }

    async def test_smoothing_is_on_unless_switched_off(self, client: httpx.AsyncClient) -> None:
        default, on, off = [
            (await remove(client, **fields)).content for fields in ({}, {"smoothing": "true"}, {"smoothing": "false"})
        ]
        assert default == on != off

    async def test_smoothing_changes_alpha_at_edges_only(self, client: httpx.AsyncClient) -> None:
        smooth = decode((await remove(client)).content)
        sharp = decode((await remove(client, smoothing="false")).content)
        changed = smooth[..., 3] != sharp[..., 3]
        soft = ((sharp[..., 3] > 0) & (sharp[..., 3] < 255)).astype(np.uint8)
        near_edge = cv2.dilate(soft, np.ones((25, 25), np.uint8)).astype(bool)
        assert changed.any()
        assert not near_edge.all()
        assert not (changed & ~near_edge).any()

    async def test_smoothing_leaves_opaque_colours_alone(self, client: httpx.AsyncClient) -> None:
        smooth = decode((await remove(client)).content)
        sharp = decode((await remove(client, smoothing="false")).content)
        opaque = (smooth[..., 3] == 255) & (sharp[..., 3] == 255)
        assert opaque.any()
        np.testing.assert_array_equal(smooth[opaque], sharp[opaque])

    async def test_what_was_transparent_before_stays_transparent(self, client: httpx.AsyncClient) -> None:
        pixels = np.dstack([photo(), np.full((90, 120), 255, np.uint8)])
        pixels[40:50, 50:60, 3] = 0
        cutout = decode((await remove(client, encode(pixels))).content)
        assert (cutout[42:48, 52:58, 3] == 0).all()
        assert cutout[45, 75, 3] == 255

    @pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP"])
    async def test_the_content_decides_the_format_not_the_name(self, client: httpx.AsyncClient, format: str) -> None:
        answer = await remove(client, encode(photo(), format), filename="x.txt", declared_type="image/tiff")
        assert answer.headers["x-original-size"] == "120x90"

    async def test_an_upload_touches_no_temporary_file(
        self, client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
        large = encode(photo()) + bytes(3 * MIB)  # beyond what the form parser keeps in memory by default
        assert (await remove(client, large)).status_code == 200

    async def test_two_clients_at_once_get_their_own_pictures(self, new_world: OpenWorld) -> None:
        async with new_world() as world:
            first, second = await asyncio.gather(
                remove(world.client, encode(photo(90, 120))), remove(world.client, encode(photo(150, 70)))
            )
        assert decode(first.content).shape == (90, 120, 4)
        assert decode(second.content).shape == (150, 70, 4)


class TestFilename:
    @pytest.mark.parametrize(
        ("sent", "stem"),
        [
            ("portrait.jpg", "portrait"),
            ("my.holiday.photo.jpeg", "my.holiday.photo"),
            ("C:\\Users\\me\\cat.png", "cat"),
            ("../../etc/passwd.png", "passwd"),
            ("no extension", "no extension"),
            (".png", "image"),
            ("...", "image"),
            ('a"b;c.png', "abc"),
            ("x" * 300 + ".png", "x" * 80),
        ],
    )
    async def test_the_result_is_named_after_the_upload(self, client: httpx.AsyncClient, sent: str, stem: str) -> None:
        quoted = sent.replace("\\", "\\\\").replace('"', '\\"')
        form = raw_form(f'form-data; name="image"; filename="{quoted}"', encode(photo()))
        answer = await client.post(REMOVE, **form)
        pattern = rf'attachment; filename="{re.escape(stem)}_nobg_\d{{8}}_\d{{6}}\.png"'
        assert re.fullmatch(pattern, answer.headers["content-disposition"])

    async def test_a_unicode_name_comes_back_exactly_beside_a_plain_one(self, client: httpx.AsyncClient) -> None:
        disposition = (await remove(client, filename="写真é.png")).headers["content-disposition"]
        pattern = (
            r"attachment; filename=\"____nobg_(\d{8}_\d{6})\.png\"; "
            r"filename\*=UTF-8''%E5%86%99%E7%9C%9F%C3%A9_nobg_\1\.png"
        )
        assert re.fullmatch(pattern, disposition)

    @pytest.mark.parametrize(
        "parameter",
        [
            "filename*=UTF-8''a%0D%0AX-Evil:%201.png",
            'filename="a%0d%0aX-Evil: 1.png"',
            'filename="a\rX-Evil: 1.png"',
        ],
    )
    async def test_a_name_cannot_add_a_header(self, client: httpx.AsyncClient, parameter: str) -> None:
        answer = await client.post(REMOVE, **raw_form(f'form-data; name="image"; {parameter}', encode(photo())))
        assert "x-evil" not in answer.headers
        assert not re.search(r"[\r\n]", answer.headers.get("content-disposition", ""))

    def test_a_quote_in_a_name_does_not_end_the_header_value(self) -> None:
        header = content_disposition('a"; filename="b.exe')
        assert header.startswith("attachment; filename=\"a__ filename__b.exe\"; filename*=UTF-8''a%22%3B")


class TestErrors:
    async def test_a_document_is_refused_with_the_format_received(self, client: httpx.AsyncClient) -> None:
        body = assert_error(await remove(client, b"%PDF-1.7 etc"), 400, "INVALID_FORMAT")
        assert body["detail"] == "Unsupported file format. Please upload JPEG, PNG, or WebP."
        assert body["supported_formats"] == ["JPEG", "PNG", "WEBP", "BMP"]
        assert body["received_format"] == "application/pdf"

    async def test_a_declared_type_that_is_no_image_is_refused(self, client: httpx.AsyncClient) -> None:
        body = assert_error(await remove(client, declared_type="application/pdf"), 400, "INVALID_FORMAT")
        assert body["received_format"] == "application/pdf"

    @pytest.mark.parametrize(("width", "height"), [(10_000, 6_000), (2**31 - 1, 2**31 - 1)])
    async def test_too_many_megapixels_are_a_bomb(self, client: httpx.AsyncClient, width: int, height: int) -> None:
        data = png_claiming(width, height)
        body = assert_error(await remove(client, data), 400, "IMAGE_BOMB")
        assert "bomb" in body["detail"]
        assert body["file_size_bytes"] == len(data)
        assert body["decompressed_size_bytes"] >= width * height * 3
        assert body["ratio"] > 1000

    async def test_too_high_a_decompression_ratio_is_a_bomb(self, client: httpx.AsyncClient) -> None:
        body = assert_error(await remove(client, png_claiming(4_000, 3_000)), 400, "IMAGE_BOMB")
        assert "decompression ratio exceeds 1000x" in body["detail"]

    @pytest.mark.parametrize(("width", "height"), [(7_681, 100), (100, 7_681), (4_400, 4_321)])
    async def test_more_than_8k_is_refused(self, client: httpx.AsyncClient, width: int, height: int) -> None:
        data = png_claiming(width, height, size_bytes=200_000)
        body = assert_error(await remove(client, data), 400, "RESOLUTION_TOO_LARGE")
        assert "8K" in body["detail"]

    @pytest.mark.parametrize(("height", "width"), [(63, 120), (120, 63), (1, 1)])
    async def test_less_than_64_pixels_is_refused(self, client: httpx.AsyncClient, height: int, width: int) -> None:
        assert_error(await remove(client, encode(photo(height, width))), 400, "IMAGE_TOO_SMALL")

    async def test_64_pixels_are_enough(self, client: httpx.AsyncClient) -> None:
        assert (await remove(client, encode(photo(64, 65)))).headers["x-original-size"] == "65x64"

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="no byte"),
            pytest.param(b"this is a text, not a picture", id="text"),
            pytest.param(encode(photo())[:-900], id="truncated png"),
            pytest.param(encode(photo(), "JPEG")[:400], id="truncated jpeg"),
            pytest.param(b"\xff\xd8\xff", id="only a magic number"),
        ],
    )
    async def test_an_unreadable_picture_is_refused(self, client: httpx.AsyncClient, data: bytes) -> None:
        body = assert_error(await remove(client, data), 400, "INVALID_IMAGE")
        assert "Invalid image data" in body["detail"]

    async def test_a_file_one_byte_too_large_is_refused(self, client: httpx.AsyncClient) -> None:
        body = assert_error(await remove(client, bytes(10 * MIB + 1)), 413, "FILE_TOO_LARGE")
        assert body["detail"] == "File size exceeds 10MB limit"
        assert body["file_size_mb"] == 10.0
        assert body["max_size_mb"] == 10

    async def test_a_body_declared_too_large_is_refused_unread(
        self, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(body_reception, "LINGER_BYTES", 0)
        read = []

        async def body() -> AsyncIterator[bytes]:
            read.append(1)
            yield b"x"

        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Length": str(12_400 * 1024)}
        answer = await client.post(REMOVE, content=body(), headers=headers)
        found = assert_error(answer, 413, "FILE_TOO_LARGE")
        assert found["detail"] == "File size exceeds 10MB limit"
        assert found["file_size_mb"] == 12.1
        assert found["max_size_mb"] == 10
        assert read == []

    async def test_an_endless_body_is_refused_soon_after_the_limit(
        self, new_world: OpenWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(body_reception, "LINGER_BYTES", 0)
        sent = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal sent
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
            yield head.encode()
            while True:
                sent += 64 * 1024
                yield bytes(64 * 1024)

        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        async with new_world(birefnet_max_image_size_mb=1) as world:
            answer = await world.client.post(REMOVE, content=body(), headers=headers)
        assert_error(answer, 413, "FILE_TOO_LARGE")
        assert sent < 2 * MIB

    async def test_a_form_without_the_image_is_refused_with_the_fields_name(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(REMOVE, files={"picture": ("a.png", encode(photo()), "image/png")})
        assert assert_error(answer, 422, "INVALID_REQUEST")["errors"][0]["field"] == "image"

    async def test_a_text_in_the_images_place_is_refused(self, client: httpx.AsyncClient) -> None:
        form = raw_form('form-data; name="image"', b"not a file")
        assert assert_error(await client.post(REMOVE, **form), 422, "INVALID_REQUEST")["errors"][0]["field"] == "image"

    @pytest.mark.parametrize("field", ["smoothing", "return_base64"])
    async def test_a_wrong_boolean_is_refused_with_the_fields_name(self, client: httpx.AsyncClient, field: str) -> None:
        body = assert_error(await remove(client, **{field: "maybe"}), 422, "INVALID_REQUEST")
        assert [problem["field"] for problem in body["errors"]] == [field]

    @pytest.mark.parametrize("content_type", ["application/json", "image/png", "", "multipart/form-data"])
    async def test_a_body_that_is_no_form_is_refused(self, client: httpx.AsyncClient, content_type: str) -> None:
        answer = await client.post(REMOVE, content=encode(photo()), headers={"Content-Type": content_type})
        assert_error(answer, 422, "INVALID_REQUEST")

    async def test_a_form_cut_short_is_refused(self, client: httpx.AsyncClient) -> None:
        form = raw_form('form-data; name="image"; filename="a.png"', encode(photo()))
        form["content"] = form["content"][:60]
        assert_error(await client.post(REMOVE, **form), 422, "INVALID_REQUEST")

    async def test_two_files_are_refused(self, client: httpx.AsyncClient) -> None:
        files = [("image", (name, encode(photo()), "image/png")) for name in ("a.png", "b.png")]
        body = assert_error(await client.post(REMOVE, files=files), 422, "INVALID_REQUEST")
        assert "Too many files" in body["detail"]

    async def test_a_slow_model_is_a_gateway_timeout(self, new_world: OpenWorld) -> None:
        async with new_world(matting=HeldMatting(), birefnet_processing_timeout_sec=0.05) as world:
            body = assert_error(await remove(world.client), 504, "PROCESSING_TIMEOUT")
        assert body["detail"] == "Processing timeout exceeded 0.05 seconds"
        assert body["elapsed_seconds"] >= 0
        assert body["suggested_action"] == "Reduce image size or retry with smaller image"

    async def test_a_model_without_an_engine_is_unavailable(self, new_world: OpenWorld) -> None:
        error = ModelNotLoaded("BiRefNet has no weights for engine 'torch'.")
        async with new_world(matting=FailingMatting(error)) as world:
            body = assert_error(await remove(world.client), 503, "MODEL_NOT_LOADED")
        assert body["detail"] == error.detail

    async def test_exhausted_gpu_memory_is_told_with_its_figures(self, new_world: OpenWorld) -> None:
        fields = {
            "gpu_memory_required_mb": 1200,
            "gpu_memory_available_mb": 847,
            "suggested_action": "Retry in 30 seconds",
            "retry_after": 30,
        }
        error = GpuMemoryExhausted("Insufficient GPU memory to process request", **fields)
        async with new_world(matting=FailingMatting(error)) as world:
            answer = await remove(world.client)
        body = assert_error(answer, 503, "GPU_MEMORY_EXHAUSTED")
        assert {**body, **fields} == body
        assert answer.headers["retry-after"] == "30"

    async def test_an_overloaded_service_says_when_to_come_back(self, new_world: OpenWorld) -> None:
        async with new_world(matting=FailingMatting(Overloaded("Busy.", retry_after=1.2))) as world:
            answer = await remove(world.client)
        assert_error(answer, 503, "OVERLOADED")
        assert answer.headers["retry-after"] == "2"

    async def test_a_failed_inference_is_told_without_internals(self, new_world: OpenWorld) -> None:
        async with new_world(matting=FailingMatting(InferenceError("Model inference failed"))) as world:
            body = assert_error(await remove(world.client), 500, "INFERENCE_ERROR")
        assert set(body) == {"detail", "error_code", "request_id"}

    async def test_an_unforeseen_failure_is_told_without_internals(self, new_world: OpenWorld) -> None:
        error = RuntimeError("CUDA error in /opt/app/secret.py at 10.0.0.7")
        async with new_world(matting=FailingMatting(error)) as world:
            answer = await remove(world.client)
        assert_error(answer, 500, "INTERNAL_ERROR")
        assert not re.search(r"CUDA|/opt|secret|10\.0|Traceback|RuntimeError", answer.text)

    async def test_an_unforeseen_failure_is_logged_whole_with_its_request_id(
        self, new_world: OpenWorld, service_log: pytest.LogCaptureFixture
    ) -> None:
        async with new_world(matting=FailingMatting(RuntimeError("the real cause"))) as world:
            answer = await remove(world.client)
        assert answer.json()["request_id"] in service_log.text
        assert "the real cause" in service_log.text

    async def test_an_error_of_our_own_is_logged_with_its_request_id(
        self, new_world: OpenWorld, service_log: pytest.LogCaptureFixture
    ) -> None:
        async with new_world(matting=FailingMatting(InferenceError("Model inference failed"))) as world:
            answer = await remove(world.client)
        assert answer.json()["request_id"] in service_log.text

    async def test_an_unknown_path_has_the_shape_of_every_error(self, client: httpx.AsyncClient) -> None:
        assert_error(await client.get("/api/background-removal/nothing"), 404, "NOT_FOUND")

    async def test_a_wrong_method_has_the_shape_of_every_error(self, client: httpx.AsyncClient) -> None:
        answer = await client.get(REMOVE)
        assert_error(answer, 405, "METHOD_NOT_ALLOWED")
        assert answer.headers["allow"] == "POST"


class TestRequestId:
    async def test_a_request_id_of_the_caller_is_kept(self, client: httpx.AsyncClient) -> None:
        answer = await remove(client, b"", headers={"X-Request-ID": "my-trace.7"})
        assert assert_error(answer, 400, "INVALID_IMAGE")["request_id"] == "my-trace.7"

    @pytest.mark.parametrize("given", ["has space", "x" * 65, '"quoted"', ""])
    async def test_an_unsafe_request_id_is_replaced(self, client: httpx.AsyncClient, given: str) -> None:
        answer = await remove(client, headers={"X-Request-ID": given})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])

    async def test_every_request_has_an_id_of_its_own(self, client: httpx.AsyncClient) -> None:
        ids = {(await client.get("/healthz")).headers["x-request-id"] for _ in range(3)}
        assert len(ids) == 3


class TestHealth:
    async def test_every_field_of_the_specification_is_there(self, client: httpx.AsyncClient) -> None:
        body = (await client.get(HEALTH)).json()
        metrics = body.pop("performance_metrics")
        assert body == {
            "status": "healthy",
            "service": "BiRefNet Background Removal",
            "version": "1.0.0",
            "model": "stub-matting",
            "device": "cpu",
            "runtime": "torch",
            "tensorrt_enabled": False,
            "gpu_memory_free_mb": 0.0,
            "model_files_status": {"checkpoint": False, "config": False, "tensorrt_engine": False},
            "detail": None,
        }
        assert metrics["requests_last_hour"] == 0
        assert set(metrics) > {"avg_latency_ms", "p95_latency_ms", "p99_latency_ms"}

    async def test_it_tells_the_device_and_the_files_of_the_model(self, new_world: OpenWorld) -> None:
        files = {"checkpoint": True, "config": True, "tensorrt_engine": True}
        info = EngineInfo("BiRefNet-general", "cuda", (1024, 1024), tensorrt=True, runtime="tensorrt")
        status = ModelStatus(info, gpu_memory_free_mb=12543.2, files=files)
        async with new_world(model_status={"BiRefNet": status}) as world:
            body = (await world.client.get(HEALTH)).json()
        assert (body["model"], body["device"], body["tensorrt_enabled"]) == ("BiRefNet-general", "cuda", True)
        assert body["runtime"] == "tensorrt"
        assert body["gpu_memory_free_mb"] == 12543.2
        assert body["model_files_status"] == files

    async def test_a_lesser_engine_is_degraded_and_says_why(self, new_world: OpenWorld) -> None:
        async with new_world(matting=EllipseMatting(degraded_reason="No weights. See README.")) as world:
            answer = await world.client.get(HEALTH)
        assert answer.status_code == 200
        assert answer.json()["status"] == "degraded"
        assert answer.json()["detail"] == "No weights. See README."

    @pytest.mark.parametrize(
        ("status", "detail"),
        [(ModelStatus(None, error="BiRefNet-general.pth missing"), "BiRefNet-general.pth missing"), (None, None)],
    )
    async def test_a_missing_model_is_unhealthy(
        self, new_world: OpenWorld, status: ModelStatus | None, detail: str | None
    ) -> None:
        async with new_world(model_status={"BiRefNet": status}) as world:
            body = assert_error(await world.client.get(HEALTH), 503, "MODEL_NOT_LOADED")
        assert set(body) == {"status", "error", "detail", "error_code", "request_id"}
        assert body["status"] == "unhealthy"
        assert detail in (None, body["detail"])

    async def test_latencies_are_those_of_real_requests(self, world: World) -> None:
        answer = await remove(world.client)
        metrics = (await world.client.get(HEALTH)).json()["performance_metrics"]
        took_ms = float(answer.headers["x-processing-time-ms"])
        assert metrics["avg_latency_ms"] == took_ms
        assert metrics["p95_latency_ms"] == metrics["p99_latency_ms"] == pytest.approx(took_ms, rel=0.03, abs=0.06)

    async def test_percentiles_follow_what_was_recorded(self, world: World) -> None:
        for latency_ms in [10.0] * 97 + [500.0] * 3:
            world.services.latency.record(latency_ms)
        metrics = (await world.client.get(HEALTH)).json()["performance_metrics"]
        assert metrics["avg_latency_ms"] == pytest.approx(24.7)
        assert metrics["p95_latency_ms"] == pytest.approx(10, rel=0.03)
        assert metrics["p99_latency_ms"] == pytest.approx(500, rel=0.03)

    async def test_failed_requests_count_but_have_no_latency(self, world: World) -> None:
        await remove(world.client, b"")
        metrics = (await world.client.get(HEALTH)).json()["performance_metrics"]
        assert metrics["requests_last_hour"] == 1
        assert metrics["avg_latency_ms"] == 0.0

    async def test_a_request_that_is_still_running_is_not_counted(self, new_world: OpenWorld) -> None:
        matting = HeldMatting()
        async with new_world(matting=matting) as world:
            running = asyncio.create_task(remove(world.client))
            await asyncio.wait_for(matting.entered.wait(), PATIENCE_S)
            metrics = (await world.client.get(HEALTH)).json()["performance_metrics"]
            matting.release.set()
            await running
        assert metrics["requests_last_hour"] == 0

    @pytest.mark.parametrize("error", [Overloaded("Restarting.", retry_after=5), TimeoutError()], ids=repr)
    async def test_without_job_manager_the_latencies_are_this_replicas(
        self, world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        async def fail(replica: str, snapshot: object) -> None:
            raise error

        monkeypatch.setattr(world.services.jobs, "report_latency", fail)
        world.services.latency.record(12.0)
        answer = await world.client.get(HEALTH)
        assert answer.status_code == 200
        assert answer.json()["performance_metrics"]["requests_last_hour"] == 1
