"""The files of jobs, in a folder and on S3: whole or not at all, in their own place, readable by many at once."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import FileNotFound, StorageError
from pipeline.jobs.artifacts import ArtifactStore, LocalArtifacts, open_artifacts, stored_name
from pipeline.jobs.storage_problems import UnusableStorage

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
MIB = 1024 * 1024


class TestWrite:
    @pytest.mark.parametrize("data", [b"\x00\xffpng", b"", bytes(range(251)) * 40_000], ids=["small", "empty", "large"])
    def test_a_file_reads_back_as_it_was_written(self, artifacts: ArtifactStore, data: bytes) -> None:
        artifacts.write("job", "mask_0.png", data)
        assert artifacts.read("job", "mask_0.png") == data
        assert artifacts.stat("job", "mask_0.png").size == len(data)

    def test_a_second_write_replaces_the_first(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"first, and longer")
        artifacts.write("job", "a.png", b"second")
        assert artifacts.read("job", "a.png") == b"second"

    def test_files_of_different_jobs_do_not_meet(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"1")
        artifacts.write("job2", "a.png", b"2")
        assert artifacts.read("job", "a.png") == b"1"

    def test_a_file_is_there_after_a_restart(self, artifacts: ArtifactStore, work_dir: str) -> None:
        artifacts.write("job", "a.png", b"x")
        assert open_artifacts(work_dir).read("job", "a.png") == b"x"

    def test_many_threads_write_and_read_at_once(self, artifacts: ArtifactStore) -> None:
        def write_and_read(number: int) -> bool:
            data = bytes([number]) * (100_000 + number)
            artifacts.write(f"job{number % 3}", f"{number}.png", data)
            tag = artifacts.stat(f"job{number % 3}", f"{number}.png").etag
            pieces = artifacts.chunks(f"job{number % 3}", f"{number}.png", 0, len(data), etag=tag)
            return artifacts.read(f"job{number % 3}", f"{number}.png") == b"".join(pieces) == data

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(write_and_read, range(40)))


@pytest.mark.parametrize("name", UNSAFE, ids=ascii)
class TestUnsafeNames:
    def test_no_unsafe_name_is_written(self, artifacts: ArtifactStore, name: str) -> None:
        with pytest.raises(FileNotFound):
            artifacts.write("job", name, b"x")
        with pytest.raises(FileNotFound):
            artifacts.write(name, "a.png", b"x")
        assert list(artifacts.job_ids()) == []

    def test_no_unsafe_name_is_read(self, artifacts: ArtifactStore, name: str) -> None:
        for job_id, file in (("job", name), (name, "a.png")):
            with pytest.raises(FileNotFound):
                artifacts.read(job_id, file)
            with pytest.raises(FileNotFound):
                artifacts.stat(job_id, file)
            with pytest.raises(FileNotFound):
                list(artifacts.chunks(job_id, file, 0, 1))

    def test_no_unsafe_name_is_deleted(self, artifacts: ArtifactStore, name: str) -> None:
        artifacts.write("job", "a.png", b"x")
        with pytest.raises(FileNotFound):
            artifacts.delete("job", name)
        with pytest.raises(FileNotFound):
            artifacts.delete_job(name)
        assert artifacts.read("job", "a.png") == b"x"


class TestRead:
    def test_a_missing_file_is_not_found(self, artifacts: ArtifactStore) -> None:
        with pytest.raises(FileNotFound) as caught:
            artifacts.read("job", "a.png")
        assert (caught.value.detail, caught.value.fields) == ("File not found", {"filename": "a.png"})

    def test_a_missing_file_has_neither_size_nor_chunks(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "b.png", b"x")
        with pytest.raises(FileNotFound):
            artifacts.stat("job", "a.png")
        with pytest.raises(FileNotFound):
            list(artifacts.chunks("job", "a.png", 0, 1))

    def test_a_file_is_no_folder(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"x")
        with pytest.raises(FileNotFound):
            artifacts.read("job", "a")

    def test_the_tag_stays_while_the_file_does(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"12345")
        assert artifacts.stat("job", "a.png") == artifacts.stat("job", "a.png")

    def test_the_tag_changes_with_a_new_file_of_the_same_size(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"12345")
        before = artifacts.stat("job", "a.png").etag
        artifacts.write("job", "a.png", b"54321")
        assert artifacts.stat("job", "a.png").etag != before

    def test_a_tag_can_stand_between_quotes(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"12345")
        tag = artifacts.stat("job", "a.png").etag
        assert tag
        assert not set(tag) & set('" \\,')

    @pytest.mark.parametrize("pinned", [False, True], ids=["", "pinned"])
    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 5), (1, 4), (4, 5), (2, 2), (3, 999), (5, 6), (999, 1000), (0, 0)], ids=str
    )
    def test_chunks_are_the_bytes_from_start_to_stop(
        self, artifacts: ArtifactStore, start: int, stop: int, pinned: bool
    ) -> None:
        artifacts.write("job", "a.png", b"12345")
        etag = artifacts.stat("job", "a.png").etag if pinned else None
        assert b"".join(artifacts.chunks("job", "a.png", start, stop, etag=etag)) == b"12345"[start:stop]

    def test_an_empty_file_has_no_chunks(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"")
        assert list(artifacts.chunks("job", "a.png", 0, 10)) == []

    def test_a_large_file_comes_in_pieces(self, artifacts: ArtifactStore) -> None:
        data = bytes(range(251)) * 14_000
        artifacts.write("job", "a.png", data)
        chunks = list(artifacts.chunks("job", "a.png", 7, len(data) - 5))
        assert b"".join(chunks) == data[7:-5]
        assert len(chunks) >= 4
        assert max(map(len, chunks)) <= MIB

    def test_chunks_of_a_file_that_was_replaced_before_are_refused(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"old")
        etag = artifacts.stat("job", "a.png").etag
        artifacts.write("job", "a.png", b"new")
        with pytest.raises(StorageError):
            list(artifacts.chunks("job", "a.png", 0, 3, etag=etag))

    @pytest.mark.parametrize("pinned", [False, True], ids=["", "pinned"])
    def test_a_file_that_is_replaced_while_it_is_read_never_mixes(self, artifacts: ArtifactStore, pinned: bool) -> None:
        """A reader either keeps the old file to its end, or is told."""
        old, new = b"o" * (3 * MIB), b"n" * (3 * MIB)
        artifacts.write("job", "a.png", old)
        etag = artifacts.stat("job", "a.png").etag if pinned else None
        reading = artifacts.chunks("job", "a.png", 0, len(old), etag=etag)
        got = next(reading)
        artifacts.write("job", "a.png", new)
        try:
            for chunk in reading:
                got += chunk
        except StorageError:
            assert 0 < len(got) < len(old)
        else:
            assert len(got) == len(old)
        assert set(got) == {ord("o")}
        assert artifacts.read("job", "a.png") == new

    def test_readers_see_the_old_file_or_the_new_one_and_never_a_part(self, artifacts: ArtifactStore) -> None:
        versions = [bytes([n]) * (100_000 + n) for n in range(12)]
        artifacts.write("job", "a.png", versions[0])
        done = threading.Event()
        seen: set[bytes] = set()

        def read() -> None:
            while not done.is_set():
                with contextlib.suppress(StorageError):  # it was replaced meanwhile; on S3 the reader is told
                    seen.add(artifacts.read("job", "a.png"))

        readers = [threading.Thread(target=read) for _ in range(3)]
        for reader in readers:
            reader.start()
        for version in versions:
            artifacts.write("job", "a.png", version)
        while versions[-1] not in seen and any(reader.is_alive() for reader in readers):
            time.sleep(0.005)
        done.set()
        for reader in readers:
            reader.join()
        assert versions[-1] in seen
        assert seen <= set(versions)


class TestDelete:
    def test_one_file_goes_and_the_others_stay(self, artifacts: ArtifactStore) -> None:
        for name in ("a.png", "a.png.2"):
            artifacts.write("job", name, b"x")
        artifacts.delete("job", "a.png")
        with pytest.raises(FileNotFound):
            artifacts.stat("job", "a.png")
        assert artifacts.read("job", "a.png.2") == b"x"

    def test_everything_of_a_job_goes(self, artifacts: ArtifactStore) -> None:
        for name in ("a.png", "b.png"):
            artifacts.write("job", name, b"x")
        artifacts.delete_job("job")
        assert list(artifacts.job_ids()) == []
        with pytest.raises(FileNotFound):
            artifacts.read("job", "a.png")

    def test_other_jobs_stay(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"x")
        artifacts.write("job2", "a.png", b"x")
        artifacts.delete_job("job")
        assert list(artifacts.job_ids()) == ["job2"]
        assert artifacts.read("job2", "a.png") == b"x"

    def test_deleting_nothing_is_no_error(self, artifacts: ArtifactStore) -> None:
        artifacts.delete_job("job")
        artifacts.delete("job", "a.png")
        artifacts.write("job", "b.png", b"x")
        artifacts.delete("job", "a.png")
        assert artifacts.read("job", "b.png") == b"x"

    def test_a_job_of_many_files_goes(self, artifacts: ArtifactStore) -> None:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: artifacts.write("job", f"{n}.png", b"x"), range(70)))
        artifacts.delete_job("job")
        assert list(artifacts.job_ids()) == []


class TestJobIds:
    def test_before_the_first_job_there_are_none(self, artifacts: ArtifactStore) -> None:
        assert list(artifacts.job_ids()) == []

    def test_every_job_with_a_file_is_told_once(self, artifacts: ArtifactStore) -> None:
        for job_id in ("a", "b", "c"):
            artifacts.write(job_id, "1.png", b"x")
            artifacts.write(job_id, "2.png", b"x")
        assert sorted(artifacts.job_ids()) == ["a", "b", "c"]

    def test_two_prefixes_of_one_storage_do_not_meet(self, artifacts: ArtifactStore, work_dir: str) -> None:
        artifacts.write("job", "a.png", b"x")
        assert list(open_artifacts(f"{work_dir}/below").job_ids()) == []


class TestCheck:
    def test_a_good_storage_passes_and_keeps_nothing(self, artifacts: ArtifactStore) -> None:
        artifacts.check()
        assert list(artifacts.job_ids()) == []

    def test_a_sweep_leaves_finished_files(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", "a.png", b"x")
        assert artifacts.sweep(0) == 0
        assert artifacts.read("job", "a.png") == b"x"

    def test_unusable_storage_is_no_error_of_a_request(self) -> None:
        """Its text is for the operator; no route may answer with it."""
        assert not issubclass(UnusableStorage, StorageError)


class TestStoredName:
    def test_the_upload_is_the_same_for_all_runs(self) -> None:
        assert {stored_name(run, "original.png") for run in range(3)} == {"original.png"}

    def test_files_of_different_runs_lie_in_different_places(self) -> None:
        assert stored_name(1, "mask_0.png") == "r1.mask_0.png"
        assert len({stored_name(run, "mask_0.png") for run in range(1, 12)}) == 11

    def test_it_is_a_name_that_the_storage_takes(self, artifacts: ArtifactStore) -> None:
        artifacts.write("job", stored_name(12, "full_inpainted.png"), b"x")
        assert artifacts.read("job", stored_name(12, "full_inpainted.png")) == b"x"


class TestOpenArtifacts:
    @pytest.mark.parametrize("folder", ["data", "./data", "/srv/data", "a folder", "s3", "data.s3"])
    def test_a_folder_is_a_folder(self, folder: str) -> None:
        assert isinstance(open_artifacts(folder), LocalArtifacts)

    @pytest.mark.parametrize(
        "work_dir",
        ["", " ", "gs://bucket/x", "https://bucket", "file:///srv", "s3a://bucket", "s3:/bucket", "s3://", "s3:///x"],
    )
    def test_what_is_neither_folder_nor_bucket_is_refused(self, work_dir: str) -> None:
        with pytest.raises(ValueError, match=r"WORK_DIR.*s3://bucket/prefix"):
            open_artifacts(work_dir)

    @pytest.mark.parametrize(("module", "loaded"), [("pipeline.jobs.artifacts", False), ("obstore", True)])
    def test_a_folder_needs_no_obstore(self, module: str, loaded: bool) -> None:
        code = f"import sys, {module}; sys.exit('obstore' in sys.modules)"
        process = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=False)
        assert process.returncode == loaded
