"""The files of jobs: whole or not at all, inside their folder, readable by many at once."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from pipeline.errors import FileNotFound, StorageError, StorageFull
from pipeline.jobs.artifacts import LocalArtifacts

UNSAFE = [
    "",
    ".",
    "..",
    "../a.png",
    "a/b.png",
    "/etc/passwd",
    "a\\b.png",
    ".hidden",
    "a\0.png",
    "a.png\n",
    "-rf",
    "ü.png",
    "x" * 129,
    "\ud800",
]


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestWrite:
    def test_a_file_reads_back_as_it_was_written(self, artifacts: LocalArtifacts) -> None:
        artifacts.write("job", "mask_0.png", b"\x00\xffpng")
        assert artifacts.read("job", "mask_0.png") == b"\x00\xffpng"

    def test_a_file_lies_in_its_jobs_folder(self, artifacts: LocalArtifacts, tmp_path: Path) -> None:
        artifacts.write("job", "mask_0.png", b"x")
        assert files_in(tmp_path) == ["jobs/job/mask_0.png"]

    def test_a_second_write_replaces_the_first(self, artifacts: LocalArtifacts, tmp_path: Path) -> None:
        artifacts.write("job", "a.png", b"first, and longer")
        artifacts.write("job", "a.png", b"second")
        assert artifacts.read("job", "a.png") == b"second"
        assert files_in(tmp_path) == ["jobs/job/a.png"]

    def test_an_empty_file_is_a_file(self, artifacts: LocalArtifacts) -> None:
        artifacts.write("job", "a.png", b"")
        assert artifacts.read("job", "a.png") == b""

    def test_the_bytes_are_on_disk_before_the_name_is(
        self, artifacts: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def fsync(descriptor: int) -> None:
            if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_file():
                seen.append((os.fstat(descriptor).st_size, (tmp_path / "jobs/job/a.png").exists()))

        monkeypatch.setattr(os, "fsync", fsync)
        artifacts.write("job", "a.png", b"12345")
        assert seen == [(5, False)]

    def test_the_name_is_on_disk_when_the_write_returns(
        self, artifacts: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A rename is lost in a power cut unless its folder is synced after it."""
        synced = []

        def fsync(descriptor: int) -> None:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            synced.append((path, (tmp_path / "jobs/job/a.png").exists()))

        monkeypatch.setattr(os, "fsync", fsync)
        artifacts.write("job", "a.png", b"12345")
        assert (tmp_path / "jobs/job", True) in synced

    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            (errno.ENOSPC, StorageFull),
            (errno.EDQUOT, StorageFull),
            (errno.EIO, StorageError),
            (errno.EROFS, StorageError),
        ],
    )
    def test_a_failing_write_is_told_and_leaves_nothing(
        self,
        artifacts: LocalArtifacts,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        number: int,
        expected: type[StorageError],
    ) -> None:
        def fail(descriptor: int) -> None:
            raise OSError(number, os.strerror(number), "/srv/secret")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageError) as caught:
            artifacts.write("job", "a.png", b"12345")
        assert type(caught.value) is expected
        assert "secret" not in caught.value.detail
        assert files_in(tmp_path) == []

    def test_a_failing_write_leaves_the_old_file(
        self, artifacts: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifacts.write("job", "a.png", b"old")

        def fail(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(StorageFull):
            artifacts.write("job", "a.png", b"new")
        assert artifacts.read("job", "a.png") == b"old"

    def test_no_room_for_a_folder_is_told_as_well(
        self, artifacts: LocalArtifacts, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: Path, *args: object, **kwargs: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(Path, "mkdir", fail)
        with pytest.raises(StorageFull):
            artifacts.write("job", "a.png", b"x")

    def test_a_folder_that_is_a_file_is_a_storage_error(self, tmp_path: Path) -> None:
        (tmp_path / "jobs").write_text("in the way")
        with pytest.raises(StorageError):
            LocalArtifacts(tmp_path).write("job", "a.png", b"x")


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
class TestUnsafeNames:
    def test_no_unsafe_name_is_written(self, artifacts: LocalArtifacts, tmp_path: Path, name: str) -> None:
        with pytest.raises(FileNotFound):
            artifacts.write("job", name, b"x")
        assert files_in(tmp_path) == []

    def test_no_unsafe_name_is_read(self, artifacts: LocalArtifacts, name: str) -> None:
        with pytest.raises(FileNotFound):
            artifacts.read("job", name)
        with pytest.raises(FileNotFound):
            artifacts.stat("job", name)
        with pytest.raises(FileNotFound):
            list(artifacts.chunks("job", name, 0, 1))

    def test_no_unsafe_job_is_written(self, artifacts: LocalArtifacts, tmp_path: Path, name: str) -> None:
        with pytest.raises(FileNotFound):
            artifacts.write(name, "a.png", b"x")
        assert files_in(tmp_path) == []

    def test_no_unsafe_job_is_deleted(self, artifacts: LocalArtifacts, tmp_path: Path, name: str) -> None:
        artifacts.write("job", "a.png", b"x")
        with pytest.raises(FileNotFound):
            artifacts.delete_job(name)
        assert files_in(tmp_path) == ["jobs/job/a.png"]


class TestRead:
    def test_a_missing_file_is_not_found(self, artifacts: LocalArtifacts) -> None:
        with pytest.raises(FileNotFound) as caught:
            artifacts.read("job", "a.png")
        assert (caught.value.detail, caught.value.fields) == ("File not found", {"filename": "a.png"})

    def test_a_missing_file_has_neither_size_nor_chunks(self, artifacts: LocalArtifacts) -> None:
        with pytest.raises(FileNotFound):
            artifacts.stat("job", "a.png")
        with pytest.raises(FileNotFound):
            list(artifacts.chunks("job", "a.png", 0, 1))

    def test_stat_tells_the_size(self, artifacts: LocalArtifacts) -> None:
        artifacts.write("job", "a.png", b"12345")
        assert artifacts.stat("job", "a.png").size == 5

    def test_the_tag_stays_while_the_file_does(self, artifacts: LocalArtifacts) -> None:
        artifacts.write("job", "a.png", b"12345")
        assert artifacts.stat("job", "a.png") == artifacts.stat("job", "a.png")

    def test_the_tag_changes_with_a_new_file_of_the_same_size(self, artifacts: LocalArtifacts) -> None:
        artifacts.write("job", "a.png", b"12345")
        before = artifacts.stat("job", "a.png").etag
        artifacts.write("job", "a.png", b"54321")
        assert artifacts.stat("job", "a.png").etag != before

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 5), (1, 4), (4, 5), (2, 2), (3, 999), (999, 1000), (0, 0)], ids=str
    )
    def test_chunks_are_the_bytes_from_start_to_stop(self, artifacts: LocalArtifacts, start: int, stop: int) -> None:
        artifacts.write("job", "a.png", b"12345")
        assert b"".join(artifacts.chunks("job", "a.png", start, stop)) == b"12345"[start:stop]

    def test_a_large_file_comes_in_pieces(self, artifacts: LocalArtifacts) -> None:
        data = bytes(range(251)) * 4000
        artifacts.write("job", "a.png", data)
        chunks = list(artifacts.chunks("job", "a.png", 7, len(data) - 5))
        assert len(chunks) == 4
        assert b"".join(chunks) == data[7:-5]

    def test_a_reader_keeps_its_file_while_another_replaces_it(self, artifacts: LocalArtifacts) -> None:
        old, new = b"o" * 600_000, b"n" * 600_000
        artifacts.write("job", "a.png", old)
        reading = artifacts.chunks("job", "a.png", 0, len(old))
        first = next(reading)
        artifacts.write("job", "a.png", new)
        assert first + b"".join(reading) == old
        assert artifacts.read("job", "a.png") == new

    def test_readers_see_the_old_file_or_the_new_one_and_never_a_part(self, artifacts: LocalArtifacts) -> None:
        versions = [bytes([n]) * (100_000 + n) for n in range(12)]
        artifacts.write("job", "a.png", versions[0])
        done = threading.Event()
        seen: set[bytes] = set()

        def read() -> None:
            while not done.is_set():
                seen.add(artifacts.read("job", "a.png"))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for version in versions:
            artifacts.write("job", "a.png", version)
        done.set()
        for reader in readers:
            reader.join()
        assert seen
        assert seen <= set(versions)


class TestDelete:
    def test_everything_of_a_job_goes(self, artifacts: LocalArtifacts, tmp_path: Path) -> None:
        for name in ("a.png", "b.png"):
            artifacts.write("job", name, b"x")
        artifacts.delete_job("job")
        assert not (tmp_path / "jobs/job").exists()

    def test_other_jobs_stay(self, artifacts: LocalArtifacts, tmp_path: Path) -> None:
        artifacts.write("job", "a.png", b"x")
        artifacts.write("job2", "a.png", b"x")
        artifacts.delete_job("job")
        assert files_in(tmp_path) == ["jobs/job2/a.png"]

    def test_deleting_nothing_is_no_error(self, artifacts: LocalArtifacts) -> None:
        artifacts.delete_job("job")
