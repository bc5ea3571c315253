"""Schemathesis calls every route of the application over stubs, in the ways its description allows and forbids."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.openapi.run import call_everything
from tests.openapi.served_world import served_world

pytestmark = pytest.mark.timeout(240)


def test_every_route_answers_as_described(tmp_path: Path) -> None:
    with served_world(tmp_path / "work") as service:
        found = call_everything(service.url, tmp_path, phases="examples,coverage,fuzzing", max_examples=2)
    assert found.ok, found.text
    called = {operation for operation, _ in found.answers}
    assert {
        f"{method} {path}" for path, item in service.document["paths"].items() for method in map(str.upper, item)
    } <= called
    for pictures in ("POST /api/background-removal/remove", "POST /upload"):
        assert {200, 422} <= found.statuses(pictures)
    assert {404, 422} <= found.statuses("POST /segment")


def test_a_route_that_answers_otherwise_is_found(tmp_path: Path) -> None:
    """Were it not, the test above would prove nothing."""
    with served_world(tmp_path / "work") as service:
        del service.document["paths"]["/upload"]["post"]["responses"]["422"]
        service.document["paths"]["/healthz"]["get"]["responses"]["200"]["content"] = {"text/plain": {}}
        found = call_everything(service.url, tmp_path, phases="coverage", max_examples=1, only=["upload", "healthz"])
    assert not found.ok
    assert "Undocumented status code" in found.text
    assert "Undocumented Content-Type" in found.text
