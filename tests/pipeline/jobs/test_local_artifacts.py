"""Artifacts in a folder: what a power cut, a full disk and a killed writer leave of them."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import FileNotFound, StorageError, StorageFull, StorageUnavailable
from pipeline.jobs.local_artifacts import LocalArtifacts
from pipeline.jobs.storage_problems import UnusableStorage

MIB = 1024 * 1024
ROOT = Path(__file__).parents[3]


@pytest.fixture
def artifacts(tmp_path: Path) -> LocalArtifacts:
    return LocalArtifacts(tmp_path)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


class TestWrite:
    def test_a_file_lies_in_its_jobs_folder(self, artifacts: LocalArtifacts, tmp_path: Path) -> None:
        artifacts.write("job", "mask_0.png", b"x")
        assert files_in(tmp_path) == ["jobs/job/mask_0.png"]

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


class TestKilledWriter:
    @pytest.fixture
    def leftover(self, tmp_path: Path) -> Path:
        """What is left of a writer that was killed between its first byte and its last."""
        code = (
            "import os, pathlib, signal\n"
            "from pipeline.jobs.local_artifacts import LocalArtifacts\n"
            "os.fsync = lambda descriptor: os.path.isfile(f'/proc/self/fd/{descriptor}')"
            " and os.kill(os.getpid(), signal.SIGKILL)\n"
            f"LocalArtifacts(pathlib.Path({str(tmp_path)!r})).write('job', 'a.png', b'12345')\n"
        )
        process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
        assert process.returncode == -signal.SIGKILL
        (path,) = (path for path in tmp_path.rglob("*") if path.is_file())
        return path

    def test_a_half_written_file_cannot_be_had_by_any_name(self, artifacts: LocalArtifacts, leftover: Path) -> None:
        assert leftover.read_bytes() == b"12345"
        for name in ("a.png", leftover.name):
            with pytest.raises(FileNotFound):
                artifacts.read("job", name)
            with pytest.raises(FileNotFound):
                artifacts.stat("job", name)

    def test_an_old_leftover_is_swept(self, artifacts: LocalArtifacts, leftover: Path) -> None:
        artifacts.write("job", "b.png", b"x")
        os.utime(leftover, (time.time() - 3600,) * 2)
        assert artifacts.sweep(600) == 1
        assert not leftover.exists()
        assert artifacts.read("job", "b.png") == b"x"

    def test_a_writer_that_may_still_be_at_work_is_left_alone(self, artifacts: LocalArtifacts, leftover: Path) -> None:
        assert artifacts.sweep(600) == 0
        assert leftover.exists()

    def test_a_leftover_goes_with_its_job(self, artifacts: LocalArtifacts, leftover: Path) -> None:
        artifacts.delete_job("job")
        assert not leftover.exists()

    def test_there_is_nothing_to_sweep_before_the_first_job(self, artifacts: LocalArtifacts) -> None:
        assert artifacts.sweep(0) == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"This test may not mount a disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="There is no mount command here.")
class TestFullDisk:
    """On a real file system that is really full."""

    def test_a_write_is_refused_and_leaves_nothing(self, small_disk: Path) -> None:
        artifacts = LocalArtifacts(small_disk)
        artifacts.write("job", "a.png", b"a" * MIB)
        with pytest.raises(StorageFull) as caught:
            artifacts.write("job", "b.png", b"b" * (MIB + 1))
        assert str(small_disk) not in caught.value.detail
        assert files_in(small_disk) == ["jobs/job/a.png"]
        assert artifacts.read("job", "a.png") == b"a" * MIB

    def test_a_file_that_does_not_fit_leaves_the_one_it_was_to_replace(self, small_disk: Path) -> None:
        artifacts = LocalArtifacts(small_disk)
        artifacts.write("job", "a.png", b"a" * MIB)
        with pytest.raises(StorageFull):
            artifacts.write("job", "a.png", b"b" * (MIB + 1))
        assert b"".join(artifacts.chunks("job", "a.png", 0, MIB)) == b"a" * MIB

    def test_deleting_makes_room_again(self, small_disk: Path) -> None:
        artifacts = LocalArtifacts(small_disk)
        artifacts.write("job", "a.png", b"a" * MIB)
        with pytest.raises(StorageFull):
            artifacts.write("job2", "b.png", b"b" * (MIB + 1))
        artifacts.delete_job("job")
        artifacts.write("job2", "b.png", b"b" * (MIB + 1))
        assert artifacts.stat("job2", "b.png").size == MIB + 1

    def test_room_is_what_the_disk_has_left(self, small_disk: Path) -> None:
        artifacts = LocalArtifacts(small_disk)
        artifacts.check_room(MIB, MIB // 2)
        artifacts.write("job", "a.png", b"a" * MIB)
        artifacts.check_room(MIB // 4, MIB // 4)
        with pytest.raises(StorageFull):
            artifacts.check_room(MIB // 2, MIB // 2 + 1)

    def test_a_full_disk_does_not_keep_the_service_from_starting(self, small_disk: Path) -> None:
        """Only a service that runs deletes what expired."""
        (small_disk / "jobs").mkdir()
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="space"):
            filler.write_bytes(b"x" * (3 * MIB))
        LocalArtifacts(small_disk).check()
        assert not list((small_disk / "jobs").iterdir())


class TestRoom:
    def test_a_folder_that_is_not_there_yet_has_its_disks_room(self, tmp_path: Path) -> None:
        LocalArtifacts(tmp_path / "not" / "yet").check_room(1, 1)

    def test_a_relative_folder_has_room(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        LocalArtifacts(Path("data")).check_room(1, 1)

    def test_no_disk_has_room_for_everything(self, artifacts: LocalArtifacts) -> None:
        with pytest.raises(StorageFull):
            artifacts.check_room(2**60, 0)
        with pytest.raises(StorageFull):
            artifacts.check_room(0, 2**60)


class TestTrouble:
    @pytest.mark.parametrize(
        ("number", "expected"), [(errno.EIO, StorageError), (errno.ESTALE, StorageUnavailable)], ids=["EIO", "ESTALE"]
    )
    def test_a_file_that_cannot_be_read_is_the_storages_fault(
        self,
        artifacts: LocalArtifacts,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        number: int,
        expected: type[StorageError],
    ) -> None:
        artifacts.write("job", "a.png", b"12345")

        def fail(self: Path, *args: object, **kwargs: object) -> None:
            raise OSError(number, "bad disk", str(self))

        for method in ("read_bytes", "stat", "open"):
            monkeypatch.setattr(Path, method, fail)
        for call in (artifacts.read, artifacts.stat, lambda *names: list(artifacts.chunks(*names, 0, 1))):
            with pytest.raises(StorageError) as caught:
                call("job", "a.png")
            assert type(caught.value) is expected
            assert "jobs" not in caught.value.detail
        assert "bad disk" in caplog.text

    def test_a_job_that_cannot_be_deleted_is_told(
        self, artifacts: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifacts.write("job", "a.png", b"x")

        def fail(*args: object, **kwargs: object) -> None:
            raise OSError(errno.EACCES, "not yours")

        monkeypatch.setattr(shutil, "rmtree", fail)
        with pytest.raises(StorageError):
            artifacts.delete_job("job")
        assert files_in(tmp_path) == ["jobs/job/a.png"]

    def test_a_file_written_during_the_deletion_goes_too(
        self, artifacts: LocalArtifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        artifacts.write("job", "a.png", b"x")
        rmdir, late = os.rmdir, iter([b"late"])

        def write_and_rmdir(path: str, **options: int) -> None:
            for data in late:
                artifacts.write("job", "late.png", data)
            rmdir(path, **options)

        monkeypatch.setattr(os, "rmdir", write_and_rmdir)
        artifacts.delete_job("job")
        assert files_in(tmp_path) == []

    def test_something_in_the_way_is_told_at_the_start(self, tmp_path: Path) -> None:
        (tmp_path / "jobs").write_text("in the way")
        with pytest.raises(UnusableStorage, match=rf"WORK_DIR: cannot write to {tmp_path}/jobs: File exists"):
            LocalArtifacts(tmp_path).check()

    def test_what_is_no_folder_is_no_job(self, artifacts: LocalArtifacts, tmp_path: Path) -> None:
        artifacts.write("job", "a.png", b"x")
        (tmp_path / "jobs" / "stray.txt").write_text("x")
        (tmp_path / "jobs" / "link").symlink_to(tmp_path)
        assert list(artifacts.job_ids()) == ["job"]
