from __future__ import annotations

import pytest

from tests.conftest import forbid_ray


def test_ray_cannot_be_imported_where_it_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_ray(monkeypatch)

    with pytest.raises(ImportError, match="ray"):
        from ray import serve  # noqa: F401


def test_ray_cannot_be_started_through_an_earlier_import(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    forbid_ray(monkeypatch)

    with pytest.raises(RuntimeError, match="must not start Ray"):
        ray.init()
