"""What is sent, how answers are judged, and that nothing stays behind on the service."""

from __future__ import annotations

import json
import os
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import hostile, hostile_corpus
from scripts.hostile_files import Specimen, attempts
from scripts.hostile_files.attempts import ROUTES, damage, plan
from scripts.memory_soak import Held


class Service(ThreadingHTTPServer):
    """Takes every file but those that hold a word it is afraid of."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: set[str] = set()
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(self.path)
        if b"crash" in body:
            self.answer(500, {"detail": "Oh no", "error_code": "INTERNAL_ERROR"})
        elif b"mute" in body:
            self.answer(400, {"detail": "no code"})
        elif b"broken" in body:
            self.answer(400, {"detail": "broken", "error_code": "INVALID_IMAGE"})
        elif self.path == "/upload":
            job_id = f"job{len(self.server.seen)}"
            self.server.jobs.add(job_id)
            self.answer(200, {"job_id": job_id})
        else:
            self.answer(200, {})

    def do_DELETE(self) -> None:
        self.server.jobs.remove(self.path.rpartition("/")[2])
        self.answer(200, {})

    def answer(self, status: int, document: dict[str, object]) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    files.mkdir()
    (files / "good.png").write_bytes(b"a good picture")
    (files / "bad.png").write_bytes(b"a broken picture")
    return files


def run(service: Service, folder: Path, *more: str) -> int:
    where = ["--url", service.url, "--failures", str(folder.parent / "failures"), "--no-memory"]
    return hostile.main([str(folder), *where, "--requests", "4", *more])


@pytest.fixture(autouse=True)
def no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostile, "SETTLE_S", 0.0)


def test_a_service_that_answers_well_passes(service: Service, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(service, folder) == 0
    printed = capsys.readouterr().out
    assert "INVALID_IMAGE" in printed
    assert "slowest answer" in printed
    assert sorted(service.seen) == sorted([*ROUTES, *ROUTES])
    assert service.jobs == set()
    assert not (folder.parent / "failures").exists()


@pytest.mark.parametrize("word", ["crash", "mute"])
def test_a_bad_answer_fails_and_its_file_is_kept(service: Service, folder: Path, word: str) -> None:
    (folder / "third.png").write_bytes(word.encode())
    assert run(service, folder) == 1
    kept = list((folder.parent / "failures").iterdir())
    assert len(kept) == 2
    assert all(path.read_bytes() == word.encode() and path.name.endswith("third.png") for path in kept)
    assert run(service, folder.parent / "failures", "--requests", "0") == 1


def test_another_fate_than_the_corpus_says_fails(service: Service, folder: Path) -> None:
    outcomes = {"good.png": ["ok"], "bad.png": ["INVALID_IMAGE"]}
    (folder / "outcomes.json").write_text(json.dumps(outcomes))
    assert run(service, folder) == 0
    (folder / "outcomes.json").write_text(json.dumps({**outcomes, "bad.png": ["ok"]}))
    assert run(service, folder) == 1


def test_a_service_that_is_not_there_fails(folder: Path) -> None:
    with Service() as gone:
        pass
    assert run(gone, folder) == 1


def test_an_empty_folder_and_no_replica_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hostile.main([str(tmp_path)]) == 1
    (tmp_path / "a.png").write_bytes(b"a")
    assert hostile.main([str(tmp_path), "--pid", str(os.getpid())]) == 1
    assert "no replica" in capsys.readouterr().err


def test_growth_in_the_second_half_is_a_problem() -> None:
    steady = [Held(0, 10), Held(0, 50), Held(0, 60)]
    leaking = [Held(0, 10), Held(0, 50), Held(0, 120)]
    rows: dict[str, list[Held | None]] = {"Ingress (1)": [*steady], "LaMa (2)": [*leaking], "MobileSAM (3)": [None] * 3}
    problems = hostile.memory_problems(rows, 50)
    assert problems == ["LaMa (2) grew by 70 MiB in the second half", "MobileSAM (3) ended meanwhile"]


def test_the_plan_is_the_same_for_the_same_seed(folder: Path) -> None:
    paths = sorted(folder.iterdir())
    first, again, other = list(plan(paths, 40, 1)), list(plan(paths, 40, 1)), list(plan(paths, 40, 2))
    assert first == again
    assert first != other
    assert [attempt.body() for attempt in first] == [attempt.body() for attempt in again]
    assert len(first) == 40
    whole = {(attempt.path, attempt.route) for attempt in first if attempt.damage_seed is None}
    assert whole == {(path, route) for path in paths for route in ROUTES}


def test_every_file_goes_to_every_route_however_few_requests(folder: Path) -> None:
    assert len(list(plan(sorted(folder.iterdir()), 0, 1))) == 4


def test_damage_cuts_and_changes() -> None:
    whole = bytes(range(256)) * 20
    results = [damage(whole, random.Random(seed)) for seed in range(200)]
    assert any(len(result) < len(whole) and whole.startswith(result) for result in results)
    assert any(len(result) == len(whole) != 0 and result != whole for result in results)
    assert any(len(result) < len(whole) and not whole.startswith(result) for result in results)
    assert damage(b"", random.Random(0)) == b""


def test_the_corpus_is_written_with_its_outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    specimens = [Specimen("a.png", b"aa", ("ok",)), Specimen("b.png", b"b", ("ok", "INVALID_IMAGE"))]
    monkeypatch.setattr(hostile_corpus, "all_specimens", lambda seed: iter(specimens))
    assert hostile_corpus.main([str(tmp_path / "new"), "--seed", "3"]) == 0
    assert (tmp_path / "new" / "a.png").read_bytes() == b"aa"
    outcomes = json.loads((tmp_path / "new" / "outcomes.json").read_text())
    assert outcomes == {"a.png": ["ok"], "b.png": ["ok", "INVALID_IMAGE"]}


def test_attempts_name_their_file() -> None:
    assert attempts.Attempt(0, Path("x/a.png"), "/upload", None).what == "a.png"
    assert attempts.Attempt(0, Path("x/a.png"), "/upload", 7).what == "a.png (damaged, 7)"
