"""Schemathesis against a real service: every route, and jobs from their upload to their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.openapi.run import call_everything
from tests.system.conftest import running_service

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(600)]


def test_every_route_answers_as_described(tmp_path: Path) -> None:
    with running_service(tmp_path) as service:
        found = call_everything(
            service.url, tmp_path, phases="examples,coverage,fuzzing,stateful", max_examples=20, spend_s=150
        )
    assert found.ok, found.text
    for operation in (
        "POST /upload",
        "POST /segment",
        "GET /status/{job_id}",
        "GET /events/{job_id}",
        "GET /download/{job_id}/{filename}",
        "POST /cancel/{job_id}",
        "DELETE /cleanup/{job_id}",
        "POST /api/background-removal/remove",
    ):
        assert 200 in found.statuses(operation), (operation, found.answers)
