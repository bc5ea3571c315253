"""Artifacts on S3: what is asked of the server, and what becomes of its bad days."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeAlias

import pytest

from pipeline.errors import FileNotFound, StorageError, StorageFull, StorageUnavailable
from pipeline.jobs import object_artifacts
from pipeline.jobs.artifacts import ArtifactStore, open_artifacts
from pipeline.jobs.object_artifacts import ObjectArtifacts
from pipeline.jobs.storage_problems import UnusableStorage
from tests.servers.bad_s3 import Answers, answering_server, closed_port, silent_server
from tests.servers.s3 import S3Server, use_s3

Call: TypeAlias = Callable[[ArtifactStore], object]

CALLS: dict[str, Call] = {
    "write": lambda store: store.write("job", "a.png", b"x"),
    "write large": lambda store: store.write("job", "a.png", bytes(20 * 1024 * 1024)),
    "read": lambda store: store.read("job", "a.png"),
    "stat": lambda store: store.stat("job", "a.png"),
    "chunks": lambda store: list(store.chunks("job", "a.png", 0, 9)),
    "pinned chunks": lambda store: list(store.chunks("job", "a.png", 0, 9, etag="tag")),
    "delete": lambda store: store.delete("job", "a.png"),
    "delete_job": lambda store: store.delete_job("job"),
    "job_ids": lambda store: list(store.job_ids()),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def error(code: str, message: str = "Words of the server") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message><Token-0>session</Token-0></Error>".encode()


class TestPlaces:
    def test_a_file_lies_under_the_prefix(self, s3: S3Server) -> None:
        bucket = s3.new_bucket()
        open_artifacts(f"s3://{bucket}/a/b/").write("job", "mask_0.png", b"x")
        assert s3.keys(bucket) == ["a/b/jobs/job/mask_0.png"]

    def test_a_bucket_needs_no_prefix(self, s3: S3Server) -> None:
        bucket = s3.new_bucket()
        open_artifacts(f"S3://{bucket}").write("job", "mask_0.png", b"x")
        assert s3.keys(bucket) == ["jobs/job/mask_0.png"]

    def test_a_check_leaves_nothing_in_the_bucket(self, s3: S3Server) -> None:
        bucket = s3.new_bucket()
        open_artifacts(f"s3://{bucket}/p").check()
        assert s3.keys(bucket) == []

    def test_a_file_over_eight_megabytes_is_one_put(self, s3: S3Server) -> None:
        """Parts would stay behind, unseen and paid for, if the writer is killed."""
        data = bytes(range(256)) * (9 * 4096)
        bucket = s3.new_bucket()
        store = open_artifacts(f"s3://{bucket}")
        store.write("job", "a.png", data)
        assert store.read("job", "a.png") == data
        assert "-" not in store.stat("job", "a.png").etag


class TestRanges:
    def test_a_part_is_all_that_is_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = Answers(206, b"x" * 100)
        with answering_server(answers) as url:
            use_s3(monkeypatch, url)
            chunks = open_artifacts("s3://bucket").chunks("job", "a.png", 0, 100, etag="tag")
            assert b"".join(chunks) == b"x" * 100
        assert answers.requests == [("GET", "/bucket/jobs/job/a.png", "bytes=0-99", '"tag"')]

    def test_a_whole_file_is_pinned_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The answer may break off, and be continued by a second request."""
        answers = Answers(200, b"x" * 100)
        with answering_server(answers) as url:
            use_s3(monkeypatch, url)
            assert open_artifacts("s3://bucket").read("job", "a.png") == b"x" * 100
        assert answers.requests[-1] == ("GET", "/bucket/jobs/job/a.png", None, '"tag"')

    def test_another_file_is_not_sent_by_a_server_that_does_not_compare(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering_server(Answers(206, b"x" * 100)) as url:
            use_s3(monkeypatch, url)
            with pytest.raises(StorageError, match="replaced"):
                list(open_artifacts("s3://bucket").chunks("job", "a.png", 0, 100, etag="other"))

    def test_a_download_does_not_run_ahead_of_its_reader(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        store = open_artifacts(f"s3://{s3.new_bucket()}")
        store.write("job", "a.png", bytes(5 * 1024 * 1024))
        pieces = []
        get = ObjectArtifacts._piece

        def watched(self: ObjectArtifacts, key: str, name: str, start: int, stop: int, etag: str) -> bytes:
            pieces.append((start, stop))
            return get(self, key, name, start, stop, etag)

        monkeypatch.setattr(ObjectArtifacts, "_piece", watched)
        reading = store.chunks("job", "a.png", 100, 5 * 1024 * 1024)
        next(reading)
        next(reading)
        assert pieces == [(100, 100 + 1024 * 1024), (100 + 1024 * 1024, 100 + 2 * 1024 * 1024)]


class TestUnreachable:
    @each_call
    def test_a_port_where_nobody_listens_is_unavailable_at_once(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: Call
    ) -> None:
        url = closed_port()
        use_s3(monkeypatch, url)
        started = time.monotonic()
        with pytest.raises(StorageUnavailable) as caught:
            call(open_artifacts("s3://secret-bucket/secret"))
        assert time.monotonic() - started < 3
        assert caught.value.fields == {"retry_after": 5}
        assert "secret" not in caught.value.detail
        assert "Connection refused" in caplog.text

    @pytest.mark.slow
    def test_a_server_that_never_answers_is_unavailable_within_ten_seconds(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """All calls at once: a call that waits holds up no other thread."""
        took: dict[str, float] = {}
        raised: dict[str, Exception] = {}
        with silent_server() as url:
            use_s3(monkeypatch, url)
            store = open_artifacts("s3://secret-bucket/secret")

            def ask(name: str, call: Call) -> None:
                started = time.monotonic()
                try:
                    call(store)
                except Exception as problem:
                    raised[name] = problem
                took[name] = time.monotonic() - started

            threads = [threading.Thread(target=ask, args=item) for item in CALLS.items()]
            for thread in threads:
                thread.start()
            ticks, started = 0, time.monotonic()
            while any(thread.is_alive() for thread in threads):
                ticks += 1
                time.sleep(0.01)
            waited = time.monotonic() - started
            for thread in threads:
                thread.join()
        assert {name: type(problem) for name, problem in raised.items()} == dict.fromkeys(CALLS, StorageUnavailable)
        assert all(problem.fields == {"retry_after": 5} for problem in raised.values())  # type: ignore[attr-defined]
        assert all(4 < seconds < 11 for seconds in took.values()), took
        assert ticks > waited * 20, "a waiting call must not hold the interpreter's lock"
        assert "TimedOut" in caplog.text

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["read", "chunks", "pinned chunks"])
    def test_a_server_that_falls_silent_in_an_answer_is_unavailable_within_ten_seconds(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        started = time.monotonic()
        with answering_server(Answers(206, b"x" * 9, sent=4)) as url:
            use_s3(monkeypatch, url)
            with pytest.raises(StorageUnavailable):
                CALLS[name](open_artifacts("s3://bucket"))
            assert time.monotonic() - started < 11

    def test_a_server_that_recovers_is_used_again(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        answers = Answers(503)
        with answering_server(answers) as url:
            use_s3(monkeypatch, url)
            store = open_artifacts("s3://bucket")
            with pytest.raises(StorageUnavailable):
                store.write("job", "a.png", b"x")
            assert len(answers.requests) == 3
            answers.status = 200
            store.write("job", "a.png", b"x")


class TestRefusals:
    @pytest.mark.parametrize(
        ("status", "code", "expected"),
        [
            (403, "AccessDenied", StorageError),
            (401, "", StorageError),
            (400, "InvalidToken", StorageError),
            (404, "NoSuchBucket", StorageError),
            (301, "PermanentRedirect", StorageError),
            (409, "OperationAborted", StorageError),
            (507, "XMinioStorageFull", StorageFull),
            (507, "", StorageFull),
            (403, "QuotaExceeded", StorageFull),
            (500, "InternalError", StorageUnavailable),
            (503, "SlowDown", StorageUnavailable),
            (429, "TooManyRequests", StorageUnavailable),
        ],
    )
    @pytest.mark.parametrize("name", ["write", "job_ids"])
    def test_what_the_server_says_becomes_our_error(
        self,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        status: int,
        code: str,
        expected: type[StorageError],
        name: str,
    ) -> None:
        with answering_server(Answers(status, error(code))) as url:
            use_s3(monkeypatch, url)
            with pytest.raises(StorageError) as caught:
                CALLS[name](open_artifacts("s3://secret-bucket/secret"))
        assert type(caught.value) is expected
        assert "secret" not in caught.value.detail
        assert "127.0.0.1" not in caught.value.detail
        assert "secret-bucket" in caplog.text
        assert status == 301 or str(status) in caplog.text
        assert code in caplog.text or status == 301
        assert "<Token-0>" not in caplog.text + str(caught.value.__cause__)
        assert caught.value.__suppress_context__

    @each_call
    def test_a_bucket_that_is_not_there_is_no_missing_file(
        self, s3: S3Server, caplog: pytest.LogCaptureFixture, call: Call
    ) -> None:
        with pytest.raises(StorageError) as caught:
            call(open_artifacts("s3://no-such-bucket"))
        assert type(caught.value) is StorageError
        assert "NoSuchBucket" in caplog.text

    def test_a_missing_file_is_no_trouble_for_the_log(self, s3: S3Server, caplog: pytest.LogCaptureFixture) -> None:
        with pytest.raises(FileNotFound):
            open_artifacts(f"s3://{s3.new_bucket()}").read("job", "a.png")
        assert caplog.text == ""


class TestCheck:
    def test_a_missing_bucket_is_told(self, s3: S3Server) -> None:
        with pytest.raises(UnusableStorage, match=r"^WORK_DIR=s3://no-such-bucket/p: PUT .* 404 NoSuchBucket \(.*\)$"):
            open_artifacts("s3://no-such-bucket/p").check()

    def test_a_missing_permission_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering_server(Answers(403, error("AccessDenied", "Not &quot;yours&quot;"))) as url:
            use_s3(monkeypatch, url)
            with pytest.raises(UnusableStorage, match=r'403 AccessDenied \(Not "yours"\)'):
                open_artifacts("s3://bucket").check()

    def test_an_absent_server_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use_s3(monkeypatch, closed_port())
        with pytest.raises(UnusableStorage, match="Connection refused"):
            open_artifacts("s3://bucket").check()

    def test_absent_credentials_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without keys they would come from the machine's own role, over an address that only clouds have."""
        with answering_server(Answers(404)) as url:
            use_s3(monkeypatch, url)
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")
            monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
            monkeypatch.setenv("AWS_METADATA_ENDPOINT", url)
            with pytest.raises(UnusableStorage, match=r"there are no credentials.*AWS_ACCESS_KEY_ID"):
                open_artifacts("s3://bucket").check()


class TestSettings:
    @pytest.mark.parametrize(
        "work_dir",
        [
            "s3://",
            "s3:///prefix",
            "s3://a",
            "s3://key:password@bucket/prefix",
            "s3://bucket:9000/prefix",
            "s3://buck et",
            "s3://-bucket",
            "s3://bucket/a//b",
            "s3://bucket/../b",
            "s3://bucket/a?x=1",
            "s3://bucket/a#b",
            "s3://bucket/a b",
        ],
    )
    def test_a_url_that_names_no_place_is_refused(self, s3: S3Server, work_dir: str) -> None:
        with pytest.raises(ValueError, match="WORK_DIR") as caught:
            open_artifacts(work_dir)
        assert "password" not in str(caught.value)

    @pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
    @pytest.mark.parametrize("value", ["", "minio:9000", "ftp://minio", "http://"])
    def test_an_endpoint_that_is_no_address_is_refused(
        self, s3: S3Server, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=f"{name} must be"):
            open_artifacts("s3://bucket")

    def test_plain_http_leaves_the_machine_only_on_demand(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
        with pytest.raises(ValueError, match=r"AWS_ENDPOINT_URL has no TLS.*AWS_ALLOW_HTTP"):
            open_artifacts("s3://bucket")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        open_artifacts("s3://bucket")

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "[::1]"])
    def test_plain_http_is_fine_on_loopback(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:9000")
        open_artifacts("s3://bucket")

    def test_half_of_the_credentials_is_refused(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(ValueError, match=r"AWS_ variables.*SecretAccessKey"):
            open_artifacts("s3://bucket")

    def test_the_service_specific_endpoint_wins(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", closed_port())
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", s3.url)
        open_artifacts(f"s3://{s3.new_bucket()}").check()


def test_a_write_has_time_in_proportion_to_its_size(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    patience = []
    opened = ObjectArtifacts._open

    def watched(self: ObjectArtifacts, timeout_s: float, silence_s: float) -> object:
        patience.append(min(timeout_s, silence_s))
        return opened(self, timeout_s, silence_s)

    monkeypatch.setattr(ObjectArtifacts, "_open", watched)
    store = open_artifacts(f"s3://{s3.new_bucket()}")
    for size in (1, 2, 17 * 1024 * 1024):
        store.write("job", "a.png", bytes(size))
    assert patience[1:] == [object_artifacts._SILENCE_S, object_artifacts._SILENCE_S + 8]
