"""What holds for every test."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.servers.s3 import s3, s3_server  # noqa: F401  fixtures
from tests.servers.work_dirs import artifacts, work_dir  # noqa: F401  fixtures

PIPELINE_TESTS = Path(__file__).parent / "pipeline"


@pytest.fixture(autouse=True)
def no_ray_in_the_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests of ``pipeline/`` can neither import Ray nor start it through a reference they already have."""
    if request.path.is_relative_to(PIPELINE_TESTS):
        forbid_ray(monkeypatch)


def forbid_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Tests of pipeline/ must not start Ray.")

    loaded: ModuleType | None = sys.modules.get("ray")
    if loaded is not None:
        monkeypatch.setattr(loaded, "init", init)
    monkeypatch.setitem(sys.modules, "ray", None)  # the next import of it fails
