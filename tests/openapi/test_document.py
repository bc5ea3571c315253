"""The OpenAPI description: valid, complete, and of one mind with the application and its errors."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import jsonschema
import pytest
from fastapi.routing import iter_route_contexts
from openapi_spec_validator import OpenAPIV31SpecValidator

from deployments.errors import CODE_BY_STATUS, STATUS_BY_ERROR, status_of
from pipeline.errors import ClearcutError
from tests.deployments.conftest import new_world, same_library_log  # noqa: F401  fixtures
from tests.deployments.world import World

Document = dict[str, Any]


@pytest.fixture
async def world(new_world) -> AsyncIterator[World]:  # noqa: F811
    async with new_world() as opened:
        yield opened


@pytest.fixture
async def document(world: World) -> Document:
    answer = await world.client.get("/openapi.json")
    found: Document = answer.json()
    return found


def operations(document: Document) -> Iterator[tuple[str, dict[str, Any]]]:
    """``METHOD /path`` and what is said of it."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def resolved(document: Document, schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return resolved(document, document["components"]["schemas"][schema["$ref"].split("/")[-1]])
    return schema


def has_example(document: Document, schema: dict[str, Any]) -> bool:
    """Whether a reader learns from it what such a value looks like."""
    schema = resolved(document, schema)
    if {"example", "examples", "enum", "const", "default"} & set(schema) or schema.get("format") == "binary":
        return True
    if "items" in schema:
        return has_example(document, schema["items"])
    fields = [
        resolved(document, schema["properties"][name]) for name in schema.get("required", schema.get("properties", ()))
    ]
    return bool(fields) and all(has_example(document, field) for field in fields)


def all_codes() -> set[tuple[int, str]]:
    def classes(cls: type[ClearcutError]) -> Iterator[type[ClearcutError]]:
        yield cls
        for child in cls.__subclasses__():
            yield from classes(child)

    assert set(STATUS_BY_ERROR) <= set(classes(ClearcutError))
    return {(status_of(cls("")), cls.code) for cls in classes(ClearcutError)} | set(CODE_BY_STATUS.items())


def test_it_is_a_valid_description(document: Document) -> None:
    OpenAPIV31SpecValidator(document).validate()


def test_it_names_licence_and_server_and_nobody_to_write_to(document: Document) -> None:
    assert document["info"]["license"]["name"] == "MIT"
    assert [server["url"] for server in document["servers"]] == ["/"]
    assert not {"contact", "termsOfService"} & set(document["info"])


def test_every_public_route_is_described_and_on_the_first_page(document: Document, world: World) -> None:
    routed = {
        f"{method} {route.path}"
        for route in iter_route_contexts(world.app.routes)
        if route.include_in_schema
        for method in route.methods
    }
    assert len(routed) >= 13
    assert {name for name, _ in operations(document)} == routed


async def test_the_first_page_lists_every_route_in_a_line(document: Document, world: World) -> None:
    listed = (await world.client.get("/")).json()["endpoints"]
    assert listed == {name: operation["summary"] for name, operation in operations(document)}


def test_every_route_says_what_it_does(document: Document) -> None:
    known_tags = {tag["name"] for tag in document["tags"] if tag["description"]}
    for name, operation in operations(document):
        assert operation["summary"].endswith("."), name
        assert len(operation["summary"]) < 100, name
        assert operation["description"].endswith("."), name
        assert set(operation["tags"]) <= known_tags, name
        assert len(operation["tags"]) == 1, name
        assert all(response["description"] != "Successful Response" for response in operation["responses"].values()), (
            name
        )


def test_operation_ids_are_readable_and_stay(document: Document) -> None:
    found = [operation["operationId"] for _, operation in operations(document)]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", name) for name in found)
    assert {"remove_background", "upload", "segment", "job_status", "job_events", "download", "cleanup"} <= set(found)


def test_every_parameter_is_told(document: Document) -> None:
    for name, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert parameter["description"].endswith("."), (name, parameter["name"])
            assert "null" not in str(parameter.get("schema")), (name, parameter["name"])


def test_every_body_has_an_example(document: Document) -> None:
    for name, operation in operations(document):
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        bodies += [response for status, response in operation["responses"].items() if status < "300"]
        for body in bodies:
            for media_type, content in body.get("content", {}).items():
                if media_type.startswith("image/"):
                    continue
                kinds = content.get("schema", {}).get("anyOf", [content.get("schema", {})])
                told = {"example", "examples"} & set(content) or any(has_example(document, kind) for kind in kinds)
                assert told, (name, media_type)


def test_every_documented_error_is_one_the_table_has(document: Document) -> None:
    known = all_codes()
    seen = set()
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            if status < "400":
                continue
            content = response["content"]["application/json"]
            schema = content["schema"]
            assert schema["$ref"] == "#/components/schemas/ErrorBody", (name, status)
            codes = schema["properties"]["error_code"]["enum"]
            assert {(int(status), code) for code in codes} <= known, (name, status)
            assert set(content["examples"]) == set(codes), (name, status)
            seen |= {(int(status), code) for code in codes}
    assert len(seen) > 20


def test_every_example_of_an_error_is_one(document: Document) -> None:
    count = 0
    for _, operation in operations(document):
        for status, response in operation["responses"].items():
            if status >= "400":
                content = response["content"]["application/json"]
                checker = jsonschema.Draft202012Validator({**content["schema"], "components": document["components"]})
                for example in content["examples"].values():
                    checker.validate(example["value"])
                    count += 1
    assert count > 60


def test_every_answer_names_its_request_and_busy_ones_when_to_return(document: Document) -> None:
    for name, operation in operations(document):
        for status, response in operation["responses"].items():
            assert "X-Request-ID" in response["headers"], (name, status)
            assert ("Retry-After" in response["headers"]) == (status in ("429", "503")), (name, status)


def test_links_lead_to_operations_that_take_what_they_hand_on(document: Document) -> None:
    by_id = {operation["operationId"]: operation for _, operation in operations(document)}
    links = [
        link for _, o in operations(document) for r in o["responses"].values() for link in r.get("links", {}).values()
    ]
    assert len(links) >= 10
    for link in links:
        target = by_id[link["operationId"]]
        assert set(link.get("parameters", ())) <= {parameter["name"] for parameter in target["parameters"]}


async def test_the_interactive_pages_use_it(world: World) -> None:
    answer = await world.client.get("/docs")
    assert answer.status_code == httpx.codes.OK
    assert "/openapi.json" in answer.text


@pytest.mark.parametrize("body", [b"\xff\xfe", b'{"job_id": "\xc3"}', b"[" * 100_000], ids=["bytes", "cut", "deep"])
async def test_a_body_that_is_no_text_is_told_like_any_other_mistake(world: World, body: bytes) -> None:
    answer = await world.client.post("/segment", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error_code"]) == (422, "INVALID_REQUEST")
    assert answer.json()["errors"]
