"""Compiled models on disk: found by all of their facts, and not kept for ever."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.models.openvino import cache
from pipeline.models.openvino.cache import CompiledModels, Entry, Verification, first_writable

FACTS = {"weights": "ab", "cpu": "one"}
ENTRY = Entry(b"compiled", Verification(error=1e-6, largest=1e-5, tolerance=1e-3))


@pytest.fixture
def models(tmp_path: Path) -> CompiledModels:
    return CompiledModels(tmp_path / "compiled")


def test_an_entry_comes_back_as_it_was(models: CompiledModels) -> None:
    models.add("Small", FACTS, ENTRY)
    assert models.find("Small", FACTS) == ENTRY


@pytest.mark.parametrize("facts", [FACTS | {"cpu": "two"}, FACTS | {"more": ""}, {"weights": "ab"}], ids=str)
def test_with_other_facts_there_is_none(models: CompiledModels, facts: dict[str, str]) -> None:
    models.add("Small", FACTS, ENTRY)
    assert models.find("Small", facts) is None
    assert models.find("Other", FACTS) is None


def test_an_entry_under_anothers_name_is_not_taken(models: CompiledModels, tmp_path: Path) -> None:
    """As if two sets of facts had the same short hash."""
    models.add("Small", FACTS, ENTRY)
    other = CompiledModels(tmp_path / "other")
    other.add("Small", FACTS | {"cpu": "two"}, ENTRY)
    for suffix in ("json", "blob"):
        (there,) = (tmp_path / "other").glob(f"*.{suffix}")
        (here,) = (tmp_path / "compiled").glob(f"*.{suffix}")
        there.replace(here)
    assert models.find("Small", FACTS) is None


def test_what_was_not_used_for_longest_goes_first(
    models: CompiledModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_ENTRIES", 3)
    for age, weights in enumerate("abc"):
        models.add("Small", {"weights": weights}, ENTRY)
        for path in (tmp_path / "compiled").glob("*.json"):
            os.utime(path, (1000 + age, 1000 + age))
    assert models.find("Small", {"weights": "a"})  # used just now
    (tmp_path / "compiled" / "ended.blob.part").write_bytes(b"x")
    for path in (tmp_path / "compiled").glob("*.json"):
        if path.stat().st_mtime < 2000:
            os.utime(path, (1000, 1000))
    models.add("Small", {"weights": "d"}, ENTRY)

    assert models.find("Small", {"weights": "a"})
    assert models.find("Small", {"weights": "d"})
    assert len(list((tmp_path / "compiled").glob("*.json"))) == 3
    assert len(list((tmp_path / "compiled").glob("*.blob"))) == 3
    assert not list((tmp_path / "compiled").glob("*.part"))


def test_more_bytes_than_are_allowed_leave_only_the_newest(
    models: CompiledModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MAX_BYTES", 10)
    models.add("Small", {"weights": "a"}, ENTRY)
    models.add("Small", {"weights": "b"}, ENTRY)
    assert models.find("Small", {"weights": "a"}) is None
    assert models.find("Small", {"weights": "b"}) == ENTRY
    assert len(list((tmp_path / "compiled").glob("*.blob"))) == 1


def test_a_folder_of_the_last_resort_ends_with_its_use(tmp_path: Path) -> None:
    no_folder = tmp_path / "file"
    no_folder.write_text("")
    with first_writable([no_folder, no_folder / "below"]) as folder:
        CompiledModels(folder).add("Small", FACTS, ENTRY)
    assert not folder.exists()
