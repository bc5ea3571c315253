"""Every error has a status, a code and one body, and survives the way between processes."""

from __future__ import annotations

import inspect
import pickle

import httpx
import pytest
from fastapi import FastAPI

from deployments.errors import STATUS_BY_ERROR, install_error_handlers, status_of
from deployments.middleware import RequestContext
from pipeline import errors

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]

STATUS_AND_CODE = {
    "InvalidInput": (400, "INVALID_REQUEST"),
    "InvalidRequest": (422, "INVALID_REQUEST"),
    "ShapeMismatch": (400, "INVALID_REQUEST"),
    "ImageRejected": (400, "INVALID_IMAGE"),
    "FileTooLarge": (413, "FILE_TOO_LARGE"),
    "UnsupportedFormat": (400, "INVALID_FORMAT"),
    "InvalidImage": (400, "INVALID_IMAGE"),
    "ImageBomb": (400, "IMAGE_BOMB"),
    "ResolutionTooLarge": (400, "RESOLUTION_TOO_LARGE"),
    "ImageTooSmall": (400, "IMAGE_TOO_SMALL"),
    "PromptRejected": (400, "INVALID_POINT"),
    "InvalidPoint": (400, "INVALID_POINT"),
    "TooManyPoints": (400, "TOO_MANY_POINTS"),
    "TooManyObjects": (400, "TOO_MANY_OBJECTS"),
    "JobNotFound": (404, "JOB_NOT_FOUND"),
    "FileNotFound": (404, "FILE_NOT_FOUND"),
    "JobNotReady": (409, "JOB_NOT_READY"),
    "JobBusy": (409, "JOB_BUSY"),
    "JobFinished": (409, "JOB_FINISHED"),
    "KeyReused": (422, "IDEMPOTENCY_KEY_REUSED"),
    "CallbackRejected": (400, "INVALID_CALLBACK"),
    "UploadTimeout": (408, "UPLOAD_TIMEOUT"),
    "Quarantined": (400, "IMAGE_QUARANTINED"),
    "Unauthorized": (401, "UNAUTHORIZED"),
    "RateLimitExceeded": (429, "RATE_LIMIT_EXCEEDED"),
    "EmptyMask": (422, "EMPTY_MASK"),
    "EmbeddingLost": (500, "INFERENCE_ERROR"),
    "ModelNotLoaded": (503, "MODEL_NOT_LOADED"),
    "ModelUnavailable": (503, "MODEL_UNAVAILABLE"),
    "Overloaded": (503, "OVERLOADED"),
    "ReplicaDied": (503, "OVERLOADED"),
    "LeaseLost": (503, "OVERLOADED"),
    "ProcessingTimeout": (504, "PROCESSING_TIMEOUT"),
    "GpuMemoryExhausted": (503, "GPU_MEMORY_EXHAUSTED"),
    "InferenceError": (500, "INFERENCE_ERROR"),
    "StorageError": (500, "INTERNAL_ERROR"),
    "StorageUnavailable": (503, "STORAGE_UNAVAILABLE"),
    "StorageFull": (507, "STORAGE_FULL"),
    "ClearcutError": (500, "INTERNAL_ERROR"),
}


def test_the_table_below_knows_every_class() -> None:
    assert {cls.__name__ for cls in CLASSES} == set(STATUS_AND_CODE)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_has_its_status_and_code(cls: type[errors.ClearcutError]) -> None:
    assert (status_of(cls("x")), cls.code) == STATUS_AND_CODE[cls.__name__]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_belongs_to_the_tree(cls: type[errors.ClearcutError]) -> None:
    assert issubclass(cls, errors.ClearcutError)


def test_the_table_of_statuses_holds_classes_of_the_tree_only() -> None:
    assert set(STATUS_BY_ERROR) <= set(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_survives_pickling_with_its_fields(cls: type[errors.ClearcutError]) -> None:
    copy = pickle.loads(pickle.dumps(cls("What happened.", limit=3, names=["a"])))
    assert type(copy) is cls
    assert (copy.detail, copy.fields, str(copy)) == ("What happened.", {"limit": 3, "names": ["a"]}, "What happened.")


def test_the_tree_in_the_docstring_names_every_class() -> None:
    assert all(cls.__name__ in (errors.__doc__ or "") for cls in CLASSES)


def app_that_raises(error: Exception) -> httpx.AsyncClient:
    app = FastAPI()
    install_error_handlers(app)
    app.add_middleware(RequestContext)

    @app.get("/")
    async def fail() -> None:
        raise error

    return httpx.AsyncClient(transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://clearcut")


async def test_fields_stand_beside_detail_code_and_request_id() -> None:
    async with app_that_raises(errors.TooManyObjects("Too many.", max_objects=16)) as client:
        body = (await client.get("/", headers={"X-Request-ID": "abc"})).json()
    assert body == {
        "detail": "Too many.",
        "error_code": "TOO_MANY_OBJECTS",
        "max_objects": 16,
        "request_id": "abc",
    }


async def test_a_field_cannot_stand_in_for_the_request_id() -> None:
    async with app_that_raises(errors.InvalidInput("No.", request_id="forged")) as client:
        assert (await client.get("/", headers={"X-Request-ID": "abc"})).json()["request_id"] == "abc"


@pytest.mark.parametrize(("retry_after", "header"), [(30, "30"), (1.2, "2"), (0.1, "1")])
async def test_retry_after_is_a_header_in_whole_seconds(retry_after: float, header: str) -> None:
    async with app_that_raises(errors.Overloaded("Busy.", retry_after=retry_after)) as client:
        assert (await client.get("/")).headers["retry-after"] == header


async def test_a_call_that_timed_out_is_a_503_with_retry_after() -> None:
    async with app_that_raises(TimeoutError()) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["error_code"]) == (503, "OVERLOADED")
    assert int(answer.headers["retry-after"]) > 0


async def test_what_nobody_foresaw_is_a_500_without_internals() -> None:
    async with app_that_raises(KeyError("/opt/secret")) as client:
        answer = await client.get("/")
    assert (answer.status_code, answer.json()["error_code"]) == (500, "INTERNAL_ERROR")
    assert "secret" not in answer.text
