"""Both kinds of ``WORK_DIR``, for tests that hold on either."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.jobs.artifacts import ArtifactStore, open_artifacts


@pytest.fixture(params=["folder", "s3"])
def work_dir(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ``WORK_DIR`` with nothing in it."""
    if request.param == "folder":
        return str(tmp_path / "work")
    return f"s3://{request.getfixturevalue('s3').new_bucket()}/some/prefix"


@pytest.fixture
def artifacts(work_dir: str) -> ArtifactStore:
    return open_artifacts(work_dir)
