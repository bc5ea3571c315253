"""The contract of jobs: upload, segment, status, download, cleanup, and the service's own pages."""

from __future__ import annotations

import asyncio
import io
import json
import math
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as PillowImage

from deployments.job_prompts import MAX_OBJECTS, MAX_POINTS
from deployments.model_status import ModelStatus
from pipeline.errors import InferenceError, StorageFull
from pipeline.operations.extract_and_remove import artifact_names
from pipeline.types import EngineInfo, Prompt
from tests.deployments.conftest import OpenWorld
from tests.deployments.world import World
from tests.stub_models import (
    FILL,
    PATIENCE_S,
    DiscSegmenter,
    EllipseMatting,
    FailingSegmenter,
    HeldSegmenter,
    decode,
    encode,
    photo,
)

MIB = 1024 * 1024


def assert_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The body, once it is seen to have the shape of every error."""
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert body["error_code"] == code
    assert isinstance(body["detail"], str)
    assert body["request_id"] == answer.headers["x-request-id"] != ""
    return body


async def upload(client: httpx.AsyncClient, data: bytes, declared_type: str = "image/png") -> httpx.Response:
    return await client.post("/upload", files={"file": ("photo.png", data, declared_type)})


async def segment(client: httpx.AsyncClient, job_id: str, points: Any, **more: Any) -> httpx.Response:
    """The points as a body written by Python, which takes NaN where JSON does not."""
    body = json.dumps({"job_id": job_id, "coordinates_list": points, **more})
    return await client.post("/segment", content=body, headers={"Content-Type": "application/json"})


async def status(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    answer = await client.get(f"/status/{job_id}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def distance_to(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How far each pixel is from the mask."""
    return np.asarray(
        cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE), dtype=np.float32
    )


class TestUpload:
    async def test_an_upload_opens_a_job(self, client: httpx.AsyncClient) -> None:
        body = (await upload(client, encode(photo()))).json()
        job_id = body.pop("job_id")
        assert body == {
            "status": "uploaded",
            "message": "Image uploaded. Send coordinates to segment.",
            "width": 120,
            "height": 90,
        }
        assert len(bytes.fromhex(job_id)) == 16

    async def test_original_png_holds_the_photos_pixels(self, world: World) -> None:
        job_id = await world.upload(photo())
        np.testing.assert_array_equal(await world.download(job_id, "original.png"), photo())

    async def test_a_large_photo_is_shrunk_to_max_image_size(self, new_world: OpenWorld) -> None:
        async with new_world(max_image_size=64) as world:
            body = (await upload(world.client, encode(photo(90, 120)))).json()
            original = await world.download(body["job_id"], "original.png")
        assert (body["height"], body["width"]) == (48, 64)
        assert original.shape == (48, 64, 3)

    async def test_a_small_photo_keeps_its_size(self, new_world: OpenWorld) -> None:
        async with new_world(max_image_size=1024) as world:
            body = (await upload(world.client, encode(photo(90, 120)))).json()
        assert (body["height"], body["width"]) == (90, 120)

    async def test_max_image_size_0_keeps_the_original_size(self, new_world: OpenWorld) -> None:
        async with new_world(max_image_size=0) as world:
            body = (await upload(world.client, encode(photo(70, 1500)))).json()
        assert (body["height"], body["width"]) == (70, 1500)

    @pytest.mark.parametrize(
        "data", [b"", b"no picture", encode(photo(), "JPEG")[:300]], ids=["no byte", "text", "truncated"]
    )
    async def test_an_unreadable_picture_is_refused_in_the_specifications_words(
        self, client: httpx.AsyncClient, data: bytes
    ) -> None:
        body = assert_error(await upload(client, data), 400, "INVALID_IMAGE")
        assert body["detail"].startswith("Upload failed: Invalid image data: ")

    async def test_a_document_is_refused_with_the_format_received(self, client: httpx.AsyncClient) -> None:
        body = assert_error(await upload(client, b"%PDF-1.4"), 400, "INVALID_FORMAT")
        assert body["received_format"] == "application/pdf"

    async def test_too_small_a_picture_is_refused(self, client: httpx.AsyncClient) -> None:
        assert_error(await upload(client, encode(photo(63, 80))), 400, "IMAGE_TOO_SMALL")

    async def test_more_than_50_mb_are_refused(self, client: httpx.AsyncClient) -> None:
        body = assert_error(await upload(client, bytes(50 * MIB + 1)), 413, "FILE_TOO_LARGE")
        assert "50MB" in body["detail"]
        assert body["max_size_mb"] == 50

    async def test_more_than_10_mb_are_taken(self, client: httpx.AsyncClient) -> None:
        answer = await upload(client, encode(photo()) + bytes(11 * MIB))
        assert answer.status_code == 200

    async def test_a_body_declared_too_large_is_refused(self, client: httpx.AsyncClient) -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(51 * MIB)}
        body = assert_error(await client.post("/upload", content=b"", headers=headers), 413, "FILE_TOO_LARGE")
        assert "50MB" in body["detail"]

    async def test_a_form_without_a_file_is_refused_with_the_fields_name(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/upload", files={"image": ("a.png", encode(photo()), "image/png")})
        assert assert_error(answer, 422, "INVALID_REQUEST")["errors"][0]["field"] == "file"

    async def test_a_refused_upload_leaves_nothing_behind(self, world: World) -> None:
        await upload(world.client, b"no picture")
        assert not list(world.folder.glob("jobs/*"))

    async def test_an_upload_without_room_is_507_and_leaves_nothing_behind(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(job_id: str, name: str, data: bytes) -> None:
            raise StorageFull("The server has no room for more files. Try again later.")

        monkeypatch.setattr(world.artifacts, "write", full)
        assert_error(await upload(world.client, encode(photo())), 507, "STORAGE_FULL")
        assert not list(world.folder.glob("jobs/*"))

    async def test_a_job_that_cannot_be_recorded_leaves_no_file(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def fail(job_id: str, *, width: int, height: int, size: int) -> None:
            raise RuntimeError("the database is away")

        monkeypatch.setattr(world.services.jobs, "create", fail)
        assert_error(await upload(world.client, encode(photo())), 500, "INTERNAL_ERROR")
        assert not list(world.folder.glob("jobs/*"))


class TestSegmentRequest:
    async def test_points_may_come_in_the_body(self, world: World) -> None:
        job_id = await world.upload()
        answer = await segment(world.client, job_id, [[60, 45], [20, 30]])
        assert answer.json() == {"job_id": job_id, "status": "processing", "message": "Segmenting 2 objects..."}
        assert (await world.store.ended(job_id)).state == "ready"

    async def test_points_may_come_in_the_query(self, world: World) -> None:
        job_id = await world.upload()
        answer = await world.client.post(f"/segment?job_id={job_id}&coordinates_list=[[60,45]]")
        assert answer.json()["message"] == "Segmenting 1 object..."
        assert (await world.store.ended(job_id)).objects[0].points == ((60, 45),)

    async def test_job_id_in_the_query_goes_with_points_in_the_body(self, world: World) -> None:
        job_id = await world.upload()
        answer = await world.client.post(f"/segment?job_id={job_id}", json={"coordinates_list": [[60, 45]]})
        assert answer.status_code == 200
        await world.store.ended(job_id)

    async def test_the_body_wins_over_the_query(self, world: World) -> None:
        job_id = await world.upload()
        query = f"/segment?job_id={'0' * 32}&coordinates_list=[[1,1],[2,2]]"
        await world.client.post(query, json={"job_id": job_id, "coordinates_list": [[60, 45]]})
        assert len((await world.store.ended(job_id)).objects) == 1

    async def test_labels_nest_like_the_coordinates(self, world: World) -> None:
        job_id = await world.upload()
        points = [[60, 45], [[20, 30], [25, 35]], [[90, 60]]]
        assert (await segment(world.client, job_id, points, labels=[1, [0, 1], [1]])).status_code == 200
        assert [item.labels for item in (await world.store.ended(job_id)).objects] == [(1,), (0, 1), (1,)]

    async def test_labels_in_the_query_nest_as_well(self, world: World) -> None:
        job_id = await world.upload()
        query = f"job_id={job_id}&coordinates_list=[[[20,30],[25,35]]]&labels=[[1,0]]"
        assert (await world.client.post(f"/segment?{query}")).status_code == 200
        assert (await world.store.ended(job_id)).objects[0].labels == (1, 0)

    async def test_points_without_labels_are_all_on_the_object(self, world: World) -> None:
        job_id = await world.upload()
        await segment(world.client, job_id, [[[20, 30], [25, 35]]])
        assert (await world.store.ended(job_id)).objects[0].labels == (1, 1)

    async def test_points_and_labels_reach_the_model_in_pixels_of_the_original(self, new_world: OpenWorld) -> None:
        segmenter = DiscSegmenter()
        async with new_world(segmenter=segmenter) as world:
            job_id = await world.upload()
            await segment(world.client, job_id, [[[20.5, 30], [119, 89]]], labels=[[0, 1]])
            await world.store.ended(job_id)
        (prompts,) = segmenter.prompts
        assert isinstance(prompts[0], Prompt)
        np.testing.assert_array_equal(prompts[0].points, [[20.5, 30], [119, 89]])
        np.testing.assert_array_equal(prompts[0].labels, [0, 1])

    @pytest.mark.parametrize(
        "labels",
        [
            pytest.param([1], id="too few"),
            pytest.param([1, [1, 0, 1]], id="too many points"),
            pytest.param([1, 1], id="flat where points nest"),
            pytest.param([[1], [1, 0]], id="nested where the point is flat"),
            pytest.param([2, [1, 0]], id="neither 0 nor 1"),
            pytest.param("1", id="no list"),
        ],
    )
    async def test_labels_that_do_not_fit_the_coordinates_are_refused(self, world: World, labels: Any) -> None:
        job_id = await world.upload()
        answer = await segment(world.client, job_id, [[20, 30], [[25, 35], [40, 40]]], labels=labels)
        body = assert_error(answer, 422, "INVALID_REQUEST")
        assert all(problem["field"].startswith("labels") for problem in body["errors"])

    @pytest.mark.parametrize(
        "points", [[[1]], [[1, 2, 3]], [["a", 2]], [[[1, 2], 3]], {"x": 1}, "x", [None], 5], ids=str
    )
    async def test_coordinates_that_are_no_points_are_refused(self, world: World, points: Any) -> None:
        job_id = await world.upload()
        body = assert_error(await segment(world.client, job_id, points), 422, "INVALID_REQUEST")
        assert body["errors"][0]["field"].startswith("coordinates_list")

    @pytest.mark.parametrize("text", ["[[1,2", "", "[[1e]]", "[" * 20_000], ids=["open", "empty", "no number", "deep"])
    async def test_a_query_that_is_no_json_is_refused(self, world: World, text: str) -> None:
        job_id = await world.upload()
        answer = await world.client.post("/segment", params={"job_id": job_id, "coordinates_list": text})
        assert_error(answer, 422, "INVALID_REQUEST")

    @pytest.mark.parametrize("body", [b"{", b"[1, 2]", b'"x"', b"\xff\xfe"])
    async def test_a_body_that_is_no_request_is_refused(self, client: httpx.AsyncClient, body: bytes) -> None:
        answer = await client.post("/segment", content=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        assert_error(answer, answer.status_code, "INVALID_REQUEST")

    async def test_a_misspelt_field_is_refused_with_its_name(self, world: World) -> None:
        job_id = await world.upload()
        body = assert_error(await segment(world.client, job_id, [[1, 2]], label=[1]), 422, "INVALID_REQUEST")
        assert body["errors"][0]["field"] == "label"

    @pytest.mark.parametrize("missing", ["job_id", "coordinates_list"])
    async def test_what_is_missing_is_named(self, world: World, missing: str) -> None:
        request = {"job_id": await world.upload(), "coordinates_list": [[60, 45]]}
        del request[missing]
        body = assert_error(await world.client.post("/segment", json=request), 422, "INVALID_REQUEST")
        assert body["errors"][0]["field"] == missing

    async def test_a_body_over_a_megabyte_is_refused(self, client: httpx.AsyncClient) -> None:
        points = [[1.5, 2.5]] * 150_000
        assert_error(await segment(client, "0" * 32, points), 413, "FILE_TOO_LARGE")

    @pytest.mark.parametrize("job_id", ["\ud800", "a\0b", "x" * 5000, "../jobs", "' or 1=1 --"], ids=ascii)
    async def test_a_strange_job_id_is_an_unknown_one(self, client: httpx.AsyncClient, job_id: str) -> None:
        answer = await segment(client, job_id, [[1, 2]])
        assert answer.status_code in (404, 422), answer.text

    async def test_a_strange_field_name_is_refused(self, world: World) -> None:
        answer = await segment(world.client, await world.upload(), [[1, 2]], **{"\ud800": 1})
        assert answer.status_code in (400, 422), answer.text


class TestLimits:
    @pytest.mark.parametrize("point", [(120, 45), (60, 90), (-1, 45), (60, -0.001), (1e300, 0), (-1e300, 0)], ids=str)
    async def test_a_point_outside_the_picture_is_refused(self, world: World, point: tuple[float, float]) -> None:
        job_id = await world.upload()
        body = assert_error(await segment(world.client, job_id, [[1, 1], point]), 400, "INVALID_POINT")
        assert body["object"] == 1
        assert body["point"] == list(point)
        assert (body["width"], body["height"]) == (120, 90)

    @pytest.mark.parametrize("point", [(math.nan, 1), (1, math.nan), (math.inf, 1), (1, -math.inf)], ids=str)
    async def test_a_point_that_is_nowhere_is_refused(self, world: World, point: tuple[float, float]) -> None:
        job_id = await world.upload()
        body = assert_error(await segment(world.client, job_id, [[1, 1], point]), 400, "INVALID_POINT")
        assert body["object"] == 1

    @pytest.mark.parametrize("point", [(0, 0), (119, 89), (119.99, 89.99)], ids=str)
    async def test_the_pictures_border_is_inside(self, world: World, point: tuple[float, float]) -> None:
        job_id = await world.upload()
        assert (await segment(world.client, job_id, [point])).status_code == 200
        await world.store.ended(job_id)

    async def test_16_objects_are_taken(self, world: World) -> None:
        job_id = await world.upload()
        assert (await segment(world.client, job_id, [[60, 45]] * MAX_OBJECTS)).status_code == 200
        assert len((await world.store.ended(job_id)).objects) == MAX_OBJECTS == 16

    async def test_17_objects_are_too_many(self, world: World) -> None:
        job_id = await world.upload()
        body = assert_error(await segment(world.client, job_id, [[60, 45]] * 17), 400, "TOO_MANY_OBJECTS")
        assert body["max_objects"] == 16

    async def test_32_points_are_taken(self, world: World) -> None:
        job_id = await world.upload()
        assert (await segment(world.client, job_id, [[[60, 45]] * MAX_POINTS])).status_code == 200
        assert len((await world.store.ended(job_id)).objects[0].points) == MAX_POINTS == 32

    async def test_33_points_are_too_many(self, world: World) -> None:
        job_id = await world.upload()
        body = assert_error(await segment(world.client, job_id, [[1, 1], [[60, 45]] * 33]), 400, "TOO_MANY_POINTS")
        assert (body["max_points"], body["object"]) == (32, 1)

    @pytest.mark.parametrize("points", [[], [[]], [[1, 1], []]], ids=str)
    async def test_an_object_needs_a_point(self, world: World, points: Any) -> None:
        assert_error(await segment(world.client, await world.upload(), points), 400, "INVALID_POINT")

    async def test_an_object_needs_a_point_on_it(self, world: World) -> None:
        job_id = await world.upload()
        answer = await segment(world.client, job_id, [[1, 1], [[2, 2], [3, 3]]], labels=[1, [0, 0]])
        body = assert_error(answer, 400, "INVALID_POINT")
        assert body["object"] == 1

    async def test_a_refused_request_leaves_the_job_as_it_was(self, world: World) -> None:
        job_id = await world.upload()
        before = await status(world.client, job_id)
        await segment(world.client, job_id, [[120, 45]])
        assert await status(world.client, job_id) == before


class TestUnknownJobs:
    @pytest.mark.parametrize("job_id", ["0" * 32, "nope", "..%2fjobs.db", "%00"])
    async def test_status_of_an_unknown_job_is_not_found(self, client: httpx.AsyncClient, job_id: str) -> None:
        answer = await client.get(f"/status/{job_id}")
        if "%2f" in job_id:
            assert_error(answer, 404, "NOT_FOUND")
        else:
            assert assert_error(answer, 404, "JOB_NOT_FOUND")["detail"] == "Job not found"

    async def test_segment_of_an_unknown_job_is_not_found(self, client: httpx.AsyncClient) -> None:
        body = assert_error(await segment(client, "0" * 32, [[1, 1]]), 404, "JOB_NOT_FOUND")
        assert body["detail"] == "Job not found"

    async def test_download_of_an_unknown_job_is_not_found(self, client: httpx.AsyncClient) -> None:
        answer = await client.get(f"/download/{'0' * 32}/original.png")
        assert assert_error(answer, 404, "JOB_NOT_FOUND")["detail"] == "Job not found"

    async def test_cleanup_of_an_unknown_job_is_not_found(self, client: httpx.AsyncClient) -> None:
        answer = await client.delete(f"/cleanup/{'0' * 32}")
        assert assert_error(answer, 404, "JOB_NOT_FOUND")["detail"] == "Job not found"


class TestStatus:
    async def test_a_new_job_waits_for_points(self, world: World) -> None:
        job_id = await world.upload()
        body = await status(world.client, job_id)
        times = [body.pop(name) for name in ("created_at", "updated_at", "expires_at")]
        assert times == sorted(times)
        assert body == {
            "job_id": job_id,
            "status": "uploaded",
            "stage": "uploaded",
            "progress": 0,
            "num_objects": 0,
            "objects": [],
            "files": ["original.png"],
            "width": 120,
            "height": 90,
            "refine_radius_px": 3,
            "job_dir": f"jobs/{job_id}",
        }

    async def test_a_finished_job_is_ready_at_100(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        body = await status(world.client, job_id)
        assert (body["status"], body["progress"], body["stage"], body["num_objects"]) == ("ready", 100, "done", 1)
        (found,) = body["objects"]
        assert 0 < found["coverage"] < 1
        assert found["confidence"] == 1  # the stub is sure
        assert sorted(body["files"]) == sorted(artifact_names(1))

    async def test_progress_never_falls(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45], [20, 30], [100, 70])
        progress = [record.progress for record in world.store.history if record.state != "uploaded"]
        assert progress == sorted(progress)
        assert progress[-1] == 100
        assert len(set(progress)) > 8

    async def test_stages_come_in_their_order(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45], [20, 30])
        stages = list(dict.fromkeys(record.stage for record in world.store.history))
        assert stages == ["queued", "loading", "segmenting", "extracting", "filling", "done"]

    async def test_no_path_of_the_server_is_told(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        assert str(world.settings.work_dir) not in (await world.client.get(f"/status/{job_id}")).text


class TestArtifacts:
    async def test_a_job_of_ten_objects_leaves_its_32_files(self, world: World) -> None:
        job_id = await world.upload(photo(360, 480))
        points = [[40 + 90 * (i % 5), 80 + 180 * (i // 5)] for i in range(10)]
        await world.segment(job_id, *points)
        expected = ["original.png", "full_inpainted.png"]
        expected += [f"{kind}_{index}.png" for kind in ("mask", "cropped", "inpainted") for index in range(10)]
        assert len(expected) == 32
        files = (await status(world.client, job_id))["files"]
        assert sorted(files) == sorted(expected)
        for name in expected:
            assert (await world.client.get(f"/download/{job_id}/{name}")).status_code == 200

    async def test_a_mask_is_the_object_in_0_and_255(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        mask = await world.download(job_id, "mask_0.png")
        y, x = np.mgrid[0:90, 0:120]
        np.testing.assert_array_equal(mask, np.where(np.hypot(x - 60, y - 45) <= 9, 255, 0))

    async def test_objects_keep_the_order_of_their_points(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [100, 70], [20, 30])
        assert (await world.download(job_id, "mask_0.png"))[70, 100] == 255
        assert (await world.download(job_id, "mask_1.png"))[30, 20] == 255

    @pytest.mark.parametrize("point", [(60, 45), (3, 86)], ids=["inside", "in a corner"])
    async def test_pixels_away_from_the_mask_come_back_unchanged(self, world: World, point: tuple[int, int]) -> None:
        job_id = await world.upload()
        await world.segment(job_id, list(point))
        original = await world.download(job_id, "original.png")
        inpainted = await world.download(job_id, "inpainted_0.png")
        mask = (await world.download(job_id, "mask_0.png")) == 255
        away = distance_to(mask) > (await status(world.client, job_id))["refine_radius_px"]
        assert inpainted.shape == original.shape
        np.testing.assert_array_equal(inpainted[away], original[away])

    async def test_the_object_itself_is_filled_by_the_model(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        mask = (await world.download(job_id, "mask_0.png")) == 255
        assert ((await world.download(job_id, "inpainted_0.png"))[mask] == FILL).all()

    async def test_removing_one_object_leaves_the_others(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [40, 45], [70, 45])
        original = await world.download(job_id, "original.png")
        other = (await world.download(job_id, "mask_1.png")) == 255
        np.testing.assert_array_equal((await world.download(job_id, "inpainted_0.png"))[other], original[other])

    async def test_full_inpainted_removes_every_object_and_nothing_else(self, world: World) -> None:
        job_id = await world.upload(photo(300, 500))
        await world.segment(job_id, [40, 45], [70, 45], [450, 250])
        original = await world.download(job_id, "original.png")
        masks = [(await world.download(job_id, f"mask_{index}.png")) == 255 for index in range(3)]
        full = await world.download(job_id, "full_inpainted.png")
        union = np.logical_or.reduce(masks)
        away = distance_to(union) > (await status(world.client, job_id))["refine_radius_px"]
        assert (full[union] == FILL).all()
        np.testing.assert_array_equal(full[away], original[away])

    async def test_a_crop_is_the_objects_box_and_ten_pixels_in_rgba(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 40])  # a disc of 9 pixels: rows 31 to 49, columns 51 to 69
        crop = await world.download(job_id, "cropped_0.png")
        assert crop.shape == (19 + 20, 19 + 20, 4)
        mask = (await world.download(job_id, "mask_0.png"))[21:60, 41:80] == 255
        assert ((crop[..., 3] > 127) == mask).mean() > 0.99
        assert (crop[[0, -1], :, 3] == 0).all()
        np.testing.assert_array_equal(crop[19, 19, :3], photo()[40, 60])

    async def test_a_crop_ends_at_the_pictures_border(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [2, 87])  # rows 78 to 89, columns 0 to 11
        assert (await world.download(job_id, "cropped_0.png")).shape == (12 + 10, 12 + 10, 4)

    async def test_a_narrow_photo_shrunk_below_64_pixels_is_worked_on(self, new_world: OpenWorld) -> None:
        async with new_world(max_image_size=256) as world:
            job_id = await world.upload(photo(64, 640))
            assert (await status(world.client, job_id))["height"] == 26
            assert (await world.segment(job_id, [128, 13])).error is None

    async def test_a_plain_photo_kept_large_is_worked_on(self, new_world: OpenWorld) -> None:
        """Its original.png unpacks to more than 1000 times its size, which is suspect in uploads only."""
        pixels = np.full((2300, 2300, 3), 200, np.uint8)
        async with new_world(max_image_size=0) as world:
            answer = await upload(world.client, encode(pixels, "BMP"), "image/bmp")
            assert (await world.segment(answer.json()["job_id"], [1000, 1100])).error is None

    async def test_a_photo_whose_png_passes_10_mb_is_worked_on(self, new_world: OpenWorld) -> None:
        pixels = np.random.default_rng(3).integers(0, 256, (1800, 2100, 3), np.uint8)
        async with new_world(max_image_size=0) as world:
            answer = await upload(world.client, encode(pixels, "BMP"), "image/bmp")
            assert (await world.segment(answer.json()["job_id"], [1000, 1100])).error is None

    async def test_the_colour_profile_is_carried_into_the_results(self, world: World) -> None:
        from PIL import ImageCms

        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        data = encode(photo(), icc_profile=profile)
        job_id = (await upload(world.client, data)).json()["job_id"]
        await world.segment(job_id, [60, 45])
        for name in ("original.png", "cropped_0.png", "inpainted_0.png", "full_inpainted.png"):
            answer = await world.client.get(f"/download/{job_id}/{name}")
            with PillowImage.open(io.BytesIO(answer.content)) as image:
                assert image.info.get("icc_profile") == profile, name

    async def test_the_image_is_embedded_once_for_all_objects(self, new_world: OpenWorld) -> None:
        segmenter = DiscSegmenter()
        async with new_world(segmenter=segmenter) as world:
            await world.segment(await world.upload(), [60, 45], [20, 30])
        assert segmenter.embedded == [(90, 120, 3)]


class TestFailures:
    async def test_an_object_without_a_mask_makes_the_job_an_error(self, new_world: OpenWorld) -> None:
        async with new_world(segmenter=DiscSegmenter(blind_for=[0])) as world:
            job_id = await world.upload()
            await world.segment(job_id, [60, 45], [20, 30])
            body = await status(world.client, job_id)
        assert body["status"] == "error"
        assert body["error"] == "Segmentation failed for object 0: mask too small"

    async def test_the_first_object_without_a_mask_is_named(self, new_world: OpenWorld) -> None:
        async with new_world(segmenter=DiscSegmenter(blind_for=[1, 3])) as world:
            record = await world.segment(await world.upload(), [60, 45], [1, 1], [20, 30], [2, 2])
        assert record.error == "Segmentation failed for object 1: mask too small"

    async def test_the_other_objects_results_stay_without_a_full_picture(self, new_world: OpenWorld) -> None:
        async with new_world(segmenter=DiscSegmenter(blind_for=[0])) as world:
            job_id = await world.upload()
            await world.segment(job_id, [60, 45], [20, 30])
            files = (await status(world.client, job_id))["files"]
            assert sorted(files) == ["cropped_1.png", "inpainted_1.png", "mask_1.png", "original.png"]
            for name in files:
                assert (await world.client.get(f"/download/{job_id}/{name}")).status_code == 200
            for name in ("mask_0.png", "full_inpainted.png"):
                assert_error(await world.client.get(f"/download/{job_id}/{name}"), 404, "FILE_NOT_FOUND")

    async def test_no_mask_at_all_is_an_error_with_the_original_only(self, new_world: OpenWorld) -> None:
        async with new_world(segmenter=DiscSegmenter(blind_for=[0, 1])) as world:
            record = await world.segment(await world.upload(), [60, 45], [20, 30])
        assert record.error == "Segmentation failed for object 0: mask too small"
        assert record.files == ("original.png",)

    async def test_a_failed_model_is_told_in_its_own_words(self, new_world: OpenWorld) -> None:
        async with new_world(segmenter=FailingSegmenter(InferenceError("Model inference failed"))) as world:
            record = await world.segment(await world.upload(), [60, 45])
        assert (record.state, record.error) == ("error", "Model inference failed")

    async def test_an_unforeseen_failure_is_told_without_internals(self, new_world: OpenWorld) -> None:
        async with new_world(segmenter=FailingSegmenter(RuntimeError("/opt/secret.py: CUDA error"))) as world:
            record = await world.segment(await world.upload(), [60, 45])
        assert record.error == "Processing failed. Try again, or try with another photo."

    async def test_a_ready_job_can_be_segmented_again(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45], [20, 30])
        record = await world.segment(job_id, [100, 70])
        assert record.state == "ready"
        assert sorted(record.files) == sorted(artifact_names(1))
        assert (await world.download(job_id, "mask_0.png"))[70, 100] == 255

    async def test_a_second_segmentation_starts_from_the_upload(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        before = len(world.store.history)
        await world.segment(job_id, [100, 70])
        assert world.store.history[before].files == ("original.png",)
        np.testing.assert_array_equal((await world.download(job_id, "inpainted_0.png"))[45, 60], photo()[45, 60])

    async def test_a_job_in_error_can_be_segmented_again(self, new_world: OpenWorld) -> None:
        segmenter = DiscSegmenter(blind_for=[0])
        async with new_world(segmenter=segmenter) as world:
            job_id = await world.upload()
            assert (await world.segment(job_id, [60, 45])).state == "error"
            segmenter.blind_for = set()
            record = await world.segment(job_id, [60, 45])
        assert (record.state, record.error, record.progress) == ("ready", None, 100)

    async def test_a_job_being_processed_is_busy(self, new_world: OpenWorld) -> None:
        segmenter = HeldSegmenter()
        async with new_world(segmenter=segmenter) as world:
            job_id = await world.upload()
            assert (await segment(world.client, job_id, [[60, 45]])).status_code == 200
            await asyncio.wait_for(segmenter.entered.wait(), PATIENCE_S)
            assert_error(await segment(world.client, job_id, [[20, 30]]), 409, "JOB_BUSY")
            segmenter.release.set()
            record = await world.store.ended(job_id)
        assert record.objects[0].points == ((60, 45),)

    async def test_of_two_requests_at_once_one_is_busy(self, world: World) -> None:
        job_id = await world.upload()
        answers = await asyncio.gather(*(segment(world.client, job_id, [[60, 45]]) for _ in range(2)))
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        await world.store.ended(job_id)

    async def test_two_clients_at_once_get_their_own_results(self, world: World) -> None:
        first, second = await asyncio.gather(world.upload(photo(90, 120)), world.upload(photo(150, 70)))
        await asyncio.gather(world.segment(first, [60, 45]), world.segment(second, [30, 100]))
        assert (await world.download(first, "full_inpainted.png")).shape == (90, 120, 3)
        assert (await world.download(second, "full_inpainted.png")).shape == (150, 70, 3)


class TestDownload:
    @pytest.mark.parametrize("name", ["mask_0.png", "full_inpainted.png"])
    async def test_a_result_before_segmentation_is_not_ready(self, world: World, name: str) -> None:
        job_id = await world.upload()
        assert_error(await world.client.get(f"/download/{job_id}/{name}"), 409, "JOB_NOT_READY")

    async def test_while_processing_a_file_to_come_is_not_ready_and_any_other_unknown(
        self, new_world: OpenWorld
    ) -> None:
        segmenter = HeldSegmenter()
        async with new_world(segmenter=segmenter) as world:
            job_id = await world.upload()
            await segment(world.client, job_id, [[60, 45]])
            await asyncio.wait_for(segmenter.entered.wait(), PATIENCE_S)
            for name in ("mask_0.png", "cropped_0.png", "inpainted_0.png", "full_inpainted.png"):
                assert_error(await world.client.get(f"/download/{job_id}/{name}"), 409, "JOB_NOT_READY")
            assert_error(await world.client.get(f"/download/{job_id}/mask_1.png"), 404, "FILE_NOT_FOUND")
            assert (await world.client.get(f"/download/{job_id}/original.png")).status_code == 200
            segmenter.release.set()
            await world.store.ended(job_id)

    @pytest.mark.parametrize(
        "name", ["mask_1.png", "jobs.db", "original", "ORIGINAL.PNG", "original.png.part", "..", "original.png%00"]
    )
    async def test_a_name_the_job_does_not_list_is_unknown(self, world: World, name: str) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        answer = await world.client.get(f"/download/{job_id}/{name}")
        assert answer.status_code == 404
        assert answer.json()["error_code"] in ("FILE_NOT_FOUND", "NOT_FOUND")

    @pytest.mark.parametrize(
        "path",
        [
            "{job}/..%2f..%2fjobs.db",
            "{job}/%2e%2e%2f%2e%2e%2fjobs.db",
            "{job}/..%5c..%5cjobs.db",
            "..%2fjobs%2f{job}/original.png",
            "%2e%2e/jobs.db",
            "{job}/%2fetc%2fpasswd",
            ".%2f{job}/original.png",
        ],
    )
    async def test_no_path_leads_out_of_the_job(self, world: World, path: str) -> None:
        job_id = await world.upload()
        answer = await world.client.get(f"/download/{path.format(job=job_id)}")
        assert answer.status_code == 404
        assert "error_code" in answer.json()

    async def test_a_file_comes_with_the_headers_of_a_download(self, world: World) -> None:
        job_id = await world.upload()
        answer = await world.client.get(f"/download/{job_id}/original.png")
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-disposition"] == 'attachment; filename="original.png"'
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["etag"].startswith('"')

    @pytest.mark.parametrize(
        ("wanted", "start", "stop"),
        [
            ("bytes=0-99", 0, 100),
            ("bytes=100-299", 100, 300),
            ("bytes=100-100", 100, 101),
            ("bytes=500-", 500, None),
            ("bytes=-70", -70, None),
            ("bytes=500-99999999", 500, None),
            ("bytes=-99999999", 0, None),
            ("Bytes=0-99", 0, 100),
        ],
    )
    async def test_a_range_is_that_part_of_the_file(
        self, world: World, wanted: str, start: int, stop: int | None
    ) -> None:
        url = f"/download/{await world.upload()}/original.png"
        whole = (await world.client.get(url)).content
        answer = await world.client.get(url, headers={"Range": wanted})
        part = whole[start:stop]
        first = start % len(whole)
        assert answer.status_code == 206
        assert answer.content == part
        assert answer.headers["content-length"] == str(len(part))
        assert answer.headers["content-range"] == f"bytes {first}-{first + len(part) - 1}/{len(whole)}"

    async def test_parts_join_to_the_whole_file(self, world: World) -> None:
        url = f"/download/{await world.upload()}/original.png"
        whole = (await world.client.get(url)).content
        parts = [
            (await world.client.get(url, headers={"Range": f"bytes={at}-{at + 4999}"})).content
            for at in range(0, len(whole), 5000)
        ]
        assert len(parts) > 2
        assert b"".join(parts) == whole

    @pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=99999999-999999999", "bytes=-0"])
    async def test_a_range_outside_the_file_is_refused_with_its_size(self, world: World, wanted: str) -> None:
        url = f"/download/{await world.upload()}/original.png"
        size = len((await world.client.get(url)).content)
        answer = await world.client.get(url, headers={"Range": wanted})
        assert_error(answer, 416, "RANGE_NOT_SATISFIABLE")
        assert answer.headers["content-range"] == f"bytes */{size}"

    @pytest.mark.parametrize(
        "wanted",
        ["bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,5-6", "lines=0-5", "bytes=a-b", "bytes=0x1-2", "bytes=²-"],
    )
    async def test_a_range_we_do_not_understand_is_the_whole_file(self, world: World, wanted: str) -> None:
        url = f"/download/{await world.upload()}/original.png"
        answer = await world.client.get(url, headers={"Range": wanted.encode("latin-1")})
        assert answer.status_code == 200
        assert len(answer.content) == int(answer.headers["content-length"])

    @pytest.mark.parametrize("wanted", ["bytes={}-", "bytes=0-{}", "bytes=-{}"])
    async def test_an_enormous_number_in_a_range_is_no_failure(self, world: World, wanted: str) -> None:
        url = f"/download/{await world.upload()}/original.png"
        answer = await world.client.get(url, headers={"Range": wanted.format("9" * 5000)})
        assert answer.status_code in (200, 206, 416)

    async def test_if_range_with_the_files_tag_resumes(self, world: World) -> None:
        url = f"/download/{await world.upload()}/original.png"
        tag = (await world.client.get(url)).headers["etag"]
        answer = await world.client.get(url, headers={"Range": "bytes=10-19", "If-Range": tag})
        assert answer.status_code == 206

    @pytest.mark.parametrize("tag", ['"another"', "Wed, 21 Oct 2015 07:28:00 GMT"])
    async def test_if_range_with_another_tag_starts_again(self, world: World, tag: str) -> None:
        url = f"/download/{await world.upload()}/original.png"
        answer = await world.client.get(url, headers={"Range": "bytes=10-19", "If-Range": tag})
        assert answer.status_code == 200
        assert decode(answer.content).shape == (90, 120, 3)

    @pytest.mark.parametrize("given", ["{}", '"x", {}', "W/{}", "*"])
    async def test_a_file_the_client_has_is_not_sent_again(self, world: World, given: str) -> None:
        url = f"/download/{await world.upload()}/original.png"
        tag = (await world.client.get(url)).headers["etag"]
        answer = await world.client.get(url, headers={"If-None-Match": given.format(tag)})
        assert answer.status_code == 304
        assert answer.content == b""
        assert answer.headers["etag"] == tag

    async def test_a_file_the_client_has_not_is_sent(self, world: World) -> None:
        url = f"/download/{await world.upload()}/original.png"
        assert (await world.client.get(url, headers={"If-None-Match": '"another"'})).status_code == 200

    async def test_the_tag_changes_with_the_content(self, world: World) -> None:
        job_id = await world.upload()
        tags = []
        for point in ([60, 45], [20, 30]):
            await world.segment(job_id, point)
            tags.append((await world.client.get(f"/download/{job_id}/mask_0.png")).headers["etag"])
        assert tags[0] != tags[1]

    async def test_head_tells_the_size_without_the_file(self, world: World) -> None:
        url = f"/download/{await world.upload()}/original.png"
        whole = await world.client.get(url)
        head = await world.client.head(url)
        assert head.status_code == 200
        assert head.content == b""
        for name in ("content-length", "content-type", "etag", "accept-ranges"):
            assert head.headers[name] == whole.headers[name]

    async def test_head_knows_no_ranges(self, world: World) -> None:
        url = f"/download/{await world.upload()}/original.png"
        assert (await world.client.head(url, headers={"Range": "bytes=0-9"})).status_code == 200

    async def test_head_of_an_unknown_file_is_404(self, world: World) -> None:
        assert (await world.client.head(f"/download/{await world.upload()}/x.png")).status_code == 404

    @pytest.mark.parametrize("name", ["original.png", "mask_0.png", "inpainted_0.png", "full_inpainted.png"])
    async def test_an_opaque_file_can_be_had_as_jpeg(self, world: World, name: str) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        answer = await world.client.get(f"/download/{job_id}/{name}?format=jpeg")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name[:-4]}.jpg"'
        with PillowImage.open(io.BytesIO(answer.content)) as image:
            assert (image.format, image.size) == ("JPEG", (120, 90))
        png = (await world.download(job_id, name)).astype(float)
        jpeg = decode(answer.content).astype(float)
        if png.ndim == 2:
            png = png[..., None]
        assert np.abs(jpeg - png).mean() < 12

    async def test_a_file_with_transparency_cannot_be_had_as_jpeg(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        assert_error(await world.client.get(f"/download/{job_id}/cropped_0.png?format=jpeg"), 400, "INVALID_REQUEST")

    async def test_a_narrow_file_can_be_had_as_jpeg(self, new_world: OpenWorld) -> None:
        async with new_world(max_image_size=256) as world:
            job_id = await world.upload(photo(64, 640))
            answer = await world.client.get(f"/download/{job_id}/original.png?format=jpeg")
        assert answer.status_code == 200

    async def test_an_unknown_format_is_refused(self, world: World) -> None:
        answer = await world.client.get(f"/download/{await world.upload()}/original.png?format=gif")
        assert_error(answer, 422, "INVALID_REQUEST")


class TestCleanup:
    async def test_cleanup_removes_the_job_and_its_files(self, world: World) -> None:
        job_id = await world.upload()
        await world.segment(job_id, [60, 45])
        answer = await world.client.delete(f"/cleanup/{job_id}")
        assert answer.json() == {"status": "deleted", "job_id": job_id}
        assert_error(await world.client.get(f"/status/{job_id}"), 404, "JOB_NOT_FOUND")
        assert_error(await world.client.get(f"/download/{job_id}/original.png"), 404, "JOB_NOT_FOUND")
        assert not list(world.folder.glob("jobs/*"))

    async def test_cleanup_is_final(self, world: World) -> None:
        job_id = await world.upload()
        await world.client.delete(f"/cleanup/{job_id}")
        assert_error(await world.client.delete(f"/cleanup/{job_id}"), 404, "JOB_NOT_FOUND")

    async def test_cleanup_leaves_other_jobs_alone(self, world: World) -> None:
        first, second = await world.upload(), await world.upload()
        await world.client.delete(f"/cleanup/{first}")
        assert (await world.download(second, "original.png")).shape == (90, 120, 3)

    async def test_cleanup_stops_a_running_job(self, new_world: OpenWorld) -> None:
        segmenter = HeldSegmenter()
        async with new_world(segmenter=segmenter) as world:
            job_id = await world.upload()
            await segment(world.client, job_id, [[60, 45]])
            await asyncio.wait_for(segmenter.entered.wait(), PATIENCE_S)
            assert (await world.client.delete(f"/cleanup/{job_id}")).status_code == 200
            assert segmenter.inside == 0
            assert_error(await world.client.get(f"/status/{job_id}"), 404, "JOB_NOT_FOUND")
            assert not list(world.folder.glob("jobs/*"))


class TestSystem:
    async def test_the_root_is_the_documentation_as_json(self, client: httpx.AsyncClient) -> None:
        body = (await client.get("/")).json()
        assert "POST /upload" in body["endpoints"]

    @pytest.mark.parametrize("accept", ["text/html", "text/html,application/xhtml+xml,*/*;q=0.8"])
    async def test_a_browser_is_led_to_the_studio(self, client: httpx.AsyncClient, accept: str) -> None:
        answer = await client.get("/", headers={"Accept": accept})
        assert (answer.status_code, answer.headers["location"]) == (307, "/studio/")

    @pytest.mark.parametrize(
        "accept", ["*/*", "application/json", "text/html;q=0.5, application/json", "text/html;q=zero", ""]
    )
    async def test_who_prefers_json_gets_it(self, client: httpx.AsyncClient, accept: str) -> None:
        assert (await client.get("/", headers={"Accept": accept})).status_code == 200

    async def test_every_documented_endpoint_exists(self, client: httpx.AsyncClient) -> None:
        documented = (await client.get("/")).json()["endpoints"]
        described = (await client.get("/openapi.json")).json()["paths"]
        for endpoint in documented:
            method, path = endpoint.split(" ")
            assert method.lower() in described[path], endpoint

    async def test_health_tells_device_and_models(self, client: httpx.AsyncClient) -> None:
        body = (await client.get("/health")).json()
        assert body == {
            "status": "healthy",
            "version": "1.0.0",
            "device": "cpu",
            "models_loaded": {"BiRefNet": True, "MobileSAM": True, "LaMa": True},
            "models": {"BiRefNet": "stub-matting", "MobileSAM": "stub-segmenter", "LaMa": "stub-inpainter"},
            "runtimes": {"BiRefNet": "torch", "MobileSAM": "torch", "LaMa": "torch"},
            "batch_sizes": {"BiRefNet": {}, "MobileSAM": {}, "LaMa": {}},
        }

    async def test_health_tells_how_batches_filled(self, new_world: OpenWorld) -> None:
        status = ModelStatus(EngineInfo("LaMa", "cpu", (8, 8)), batch_sizes={4: 2, 1: 7})
        async with new_world(model_status={"LaMa": status}) as world:
            answer = await world.client.get("/health")
        assert answer.json()["batch_sizes"]["LaMa"] == {"1": 7, "4": 2}

    async def test_health_is_degraded_with_a_lesser_engine(self, new_world: OpenWorld) -> None:
        async with new_world(matting=EllipseMatting(degraded_reason="No weights. See README.")) as world:
            answer = await world.client.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
        assert answer.json()["detail"] == "No weights. See README."

    async def test_health_is_503_without_a_model(self, new_world: OpenWorld) -> None:
        async with new_world(model_status={"LaMa": None}) as world:
            body = assert_error(await world.client.get("/health"), 503, "MODEL_NOT_LOADED")
        assert body["status"] == "unhealthy"
        assert body["models_loaded"] == {"BiRefNet": True, "MobileSAM": True, "LaMa": False}
        assert body["detail"] == "Not loaded: LaMa: It does not answer."

    async def test_health_tells_why_each_model_is_not_loaded(self, new_world: OpenWorld) -> None:
        missing = {name: ModelStatus(None, f"{name}.safetensors is missing.") for name in ("BiRefNet", "LaMa")}
        async with new_world(model_status=missing) as world:
            body = assert_error(await world.client.get("/health"), 503, "MODEL_NOT_LOADED")
        assert body["detail"] == (
            "Not loaded: BiRefNet: BiRefNet.safetensors is missing. LaMa: LaMa.safetensors is missing."
        )

    async def test_healthz_asks_nobody(self, new_world: OpenWorld) -> None:
        async with new_world(model_status={"BiRefNet": None, "MobileSAM": None, "LaMa": None}) as world:
            assert (await world.client.get("/healthz")).json() == {"status": "ok"}

    async def test_readyz_is_200_once_every_deployment_answers(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/readyz")
        assert answer.status_code == 200
        deployments = dict.fromkeys(["BiRefNet", "MobileSAM", "LaMa", "JobManager", "Ingress"], True)
        assert answer.json() == {"status": "ready", "deployments": deployments}

    async def test_readyz_is_503_and_names_the_model_that_does_not_answer(self, new_world: OpenWorld) -> None:
        async with new_world(model_status={"MobileSAM": None}) as world:
            answer = await world.client.get("/readyz")
        assert answer.status_code == 503
        assert [name for name, up in answer.json()["deployments"].items() if not up] == ["MobileSAM"]

    async def test_readyz_is_503_without_job_manager(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        async def fail() -> bool:
            raise RuntimeError("gone")

        monkeypatch.setattr(world.services.jobs, "ready", fail)
        answer = await world.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["deployments"]["JobManager"] is False
