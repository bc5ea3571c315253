"""A download ends with the pinned bytes under the final name, or with nothing there and the reason."""

from __future__ import annotations

import errno
import hashlib
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.models import download as downloads
from pipeline.models.download import DownloadError, Patience, download, is_reachable
from pipeline.models.files import part_of
from tests.file_server import FileServer, Served

ROOT = Path(__file__).resolve().parents[3]
DATA = random.Random(7).randbytes(300_001)
PIN = hashlib.sha256(DATA).hexdigest()
HASTE = Patience(answer_s=1, stall_s=0.3, silence_s=2, pause_s=0.01)


def fetch(*urls: str, to: Path, patience: Patience = HASTE) -> None:
    download(urls, to, sha256=PIN, size_bytes=len(DATA), patience=patience)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def test_a_file_arrives_whole(server: FileServer, target: Path) -> None:
    fetch(server.add("/a", Served(DATA)), to=target)

    assert target.read_bytes() == DATA
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_progress_is_told_up_to_the_last_byte(server: FileServer, target: Path) -> None:
    told: list[int] = []

    download(
        [server.add("/a", Served(DATA))], target, sha256=PIN, size_bytes=len(DATA), patience=HASTE, progress=told.append
    )

    assert told == sorted(told)
    assert (told[0], told[-1]) == (0, len(DATA))


def test_a_redirect_is_followed(server: FileServer, target: Path) -> None:
    there = server.add("/there", Served(DATA))

    fetch(server.add("/here", Served(redirect=there)), to=target)

    assert target.read_bytes() == DATA


# --- resuming ---


def test_a_half_file_is_continued(server: FileServer, target: Path) -> None:
    part_of(target).write_bytes(DATA[:100_000])

    fetch(server.add("/a", Served(DATA)), to=target)

    assert target.read_bytes() == DATA
    assert server.requests == [("/a", "bytes=100000-")]


def test_a_server_without_ranges_continues_a_half_file_too(server: FileServer, target: Path) -> None:
    part_of(target).write_bytes(DATA[:100_000])

    fetch(server.add("/a", Served(DATA, knows_ranges=False)), to=target)

    assert target.read_bytes() == DATA


def test_a_connection_that_breaks_off_is_taken_up_again(server: FileServer, target: Path) -> None:
    fetch(server.add("/a", Served(DATA, breaks_off_after=120_000)), to=target)

    assert target.read_bytes() == DATA
    assert server.requests == [("/a", None), ("/a", "bytes=120000-"), ("/a", "bytes=240000-")]


def test_a_mirror_continues_what_another_began(server: FileServer, target: Path) -> None:
    began = server.add("/began", Served(DATA, knows_ranges=False, breaks_off_after=120_000))

    fetch(began, server.add("/mirror", Served(DATA)), to=target)

    assert target.read_bytes() == DATA
    assert server.requests[-1] == ("/mirror", "bytes=120000-")


def test_a_stalled_transfer_is_taken_up_again(server: FileServer, target: Path) -> None:
    fetch(server.add("/a", Served(DATA, hangs_after=200_000)), to=target)

    assert target.read_bytes() == DATA
    assert server.requests == [("/a", None), ("/a", "bytes=200000-")]


def test_an_address_that_brings_next_to_nothing_is_asked_once(server: FileServer, target: Path) -> None:
    fetch(server.add("/a", Served(DATA, breaks_off_after=10)), server.add("/b", Served(DATA)), to=target)

    assert target.read_bytes() == DATA
    assert server.requests == [("/a", None), ("/b", "bytes=10-")]


def test_what_came_stays_for_the_next_run(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError, match="broke off after 120000"):
        fetch(server.add("/a", Served(DATA, knows_ranges=False, breaks_off_after=120_000)), to=target)

    assert not target.exists()
    assert part_of(target).read_bytes() == DATA[:120_000]


def test_a_whole_part_needs_no_network(server: FileServer, target: Path) -> None:
    """It was killed between the last byte and the new name."""
    part_of(target).write_bytes(DATA)

    fetch(f"{server.url}/a", to=target)

    assert target.read_bytes() == DATA
    assert server.requests == []


@pytest.mark.parametrize("junk", [b"x" * 100_000, b"x" * len(DATA), b"x" * (len(DATA) + 1)])
def test_a_part_with_other_bytes_is_given_up(server: FileServer, target: Path, junk: bytes) -> None:
    part_of(target).write_bytes(junk)

    fetch(server.add("/a", Served(DATA)), to=target)

    assert target.read_bytes() == DATA


def test_a_killed_download_leaves_half_a_part_and_resumes(server: FileServer, target: Path) -> None:
    url = server.add("/a", Served(DATA, hangs_after=200_000))
    code = (
        "import sys, pathlib; from pipeline.models.download import download\n"
        "say = lambda done: print(done, flush=True)\n"
        f"download([{url!r}], pathlib.Path({str(target)!r}), sha256={PIN!r}, size_bytes={len(DATA)}, progress=say)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 200_000:
                break
        child.kill()
    assert not target.exists()
    assert 0 < part_of(target).stat().st_size <= 200_000

    fetch(url, to=target)

    assert target.read_bytes() == DATA


# --- wrong files ---


def test_a_wrong_hash_is_refused_and_removed(server: FileServer, target: Path) -> None:
    wrong = bytes(byte ^ 1 for byte in DATA)

    with pytest.raises(DownloadError, match="SHA-256 differs") as caught:
        fetch(server.add("/a", Served(wrong)), to=target)

    assert not caught.value.offline
    assert list(target.parent.iterdir()) == []


def test_a_failed_download_leaves_what_was_there(server: FileServer, target: Path) -> None:
    target.write_bytes(b"before")

    with pytest.raises(DownloadError):
        fetch(server.add("/a", Served(DATA[::-1])), to=target)

    assert target.read_bytes() == b"before"


@pytest.mark.parametrize(
    ("served", "problem"),
    [
        (Served(status=404), "answers 404"),
        (Served(status=503), "answers 503"),
        (Served(DATA[:-1]), "has 300000 bytes instead of 300001"),
        (Served(DATA + b"x"), "has 300002 bytes instead of 300001"),
        (Served(DATA, content_type="text/html; charset=utf-8"), "a web page"),
        (Served(DATA[::-1]), "SHA-256 differs"),
        (Served(redirect="/bad"), "TooManyRedirects"),
        (Served(DATA, hangs_before=True), "no answer within"),
    ],
)
def test_a_mirror_stands_in_for_a_bad_address(server: FileServer, target: Path, served: Served, problem: str) -> None:
    bad = server.add("/bad", served)
    with pytest.raises(DownloadError, match=problem):
        fetch(bad, to=target)

    fetch(bad, server.add("/good", Served(DATA)), to=target)

    assert target.read_bytes() == DATA


def test_a_half_file_survives_an_address_with_another_file(server: FileServer, target: Path) -> None:
    part_of(target).write_bytes(DATA[:100_000])

    with pytest.raises(DownloadError):
        fetch(
            server.add("/short", Served(DATA[:50_000])),
            server.add("/long", Served(DATA * 2)),
            server.add("/page", Served(b"<html>", content_type="text/html", knows_ranges=False)),
            to=target,
        )

    assert part_of(target).read_bytes() == DATA[:100_000]


def test_every_address_s_problem_is_told(server: FileServer, target: Path) -> None:
    first, second = server.add("/1", Served(status=404)), server.add("/2", Served(DATA[:5]))

    with pytest.raises(DownloadError) as caught:
        fetch(first, second, to=target)

    assert caught.value.problems == (
        (first, "it answers 404 Not Found"),
        (second, "its file has 5 bytes instead of 300001"),
    )


def test_a_full_disk_is_told_before_the_first_byte(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))

    with pytest.raises(OSError, match="0 MB are free") as caught:
        fetch(server.add("/a", Served(DATA)), to=target)

    assert caught.value.errno == errno.ENOSPC
    assert server.requests == []


# --- no connection ---


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_machine_without_a_connection_is_told_so(server: FileServer, target: Path) -> None:
    with pytest.raises(DownloadError, match="no connection") as caught:
        fetch(f"http://127.0.0.1:{closed_port()}/a", to=target)

    assert caught.value.offline
    assert list(target.parent.iterdir()) == []


def test_addresses_that_never_answer_take_no_longer_than_patience_allows(server: FileServer, target: Path) -> None:
    urls = [server.add(f"/{i}", Served(DATA, hangs_before=True)) for i in range(9)]
    patience = Patience(answer_s=0.3, stall_s=5, silence_s=0.8, pause_s=0)
    began = time.monotonic()

    with pytest.raises(DownloadError, match="not tried") as caught:
        fetch(*urls, to=target, patience=patience)

    assert caught.value.offline
    assert time.monotonic() - began < 0.8 + 0.3 + 0.5


def test_a_name_lookup_that_hangs_is_not_waited_for(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lookup(*arguments: object, **options: object) -> object:
        server.closing.wait(5)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    began = time.monotonic()

    with pytest.raises(DownloadError, match="no answer within"):
        fetch("http://a.invalid/a", to=target, patience=Patience(answer_s=0.2, silence_s=1, pause_s=0))

    assert time.monotonic() - began < 1
    server.closing.set()


def test_the_default_patience_ends_within_15_s() -> None:
    patience = Patience()

    assert patience.silence_s + patience.answer_s < 15
    assert patience.stall_s <= patience.silence_s


def test_a_connection_lost_midway_is_told_so(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.add("/a", Served(DATA, hangs_after=120_000))
    ask = downloads._ask

    def once(url: str, start: int, answer_s: float, stall_s: float) -> object:
        return ask(url if start == 0 else f"http://127.0.0.1:{closed_port()}/a", start, answer_s, stall_s)

    monkeypatch.setattr(downloads, "_ask", once)
    with pytest.raises(DownloadError) as caught:
        fetch(url, to=target)

    assert caught.value.offline
    assert part_of(target).stat().st_size == 120_000


# --- proxies ---


def test_the_proxy_of_the_environment_is_used(
    server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    server.files["http://weights.invalid/a"] = Served(DATA)  # a proxy is asked for whole addresses

    fetch("http://weights.invalid/a", to=target)

    assert target.read_bytes() == DATA


def test_a_proxy_that_cannot_be_used_is_told(server: FileServer, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "gopher://proxy.invalid")

    with pytest.raises(DownloadError, match=r"(?i)proxy"):
        fetch("http://weights.invalid/a", to=target)


# --- is anybody there? ---


def test_one_address_that_answers_is_enough_and_the_others_are_not_waited_for(server: FileServer) -> None:
    silent = server.add("/silent", Served(hangs_before=True))
    began = time.monotonic()

    assert is_reachable([silent, f"http://127.0.0.1:{closed_port()}/x", server.add("/a", Served(DATA))], 10)
    assert is_reachable([f"{server.url}/not-there"], 10), "whoever says 404 is there"

    assert time.monotonic() - began < 5


def test_where_nobody_answers_in_time_nothing_is_reachable(server: FileServer) -> None:
    silent = [server.add(f"/silent-{i}", Served(hangs_before=True)) for i in range(3)]
    began = time.monotonic()

    assert not is_reachable(silent, 0.3)
    assert not is_reachable([f"http://127.0.0.1:{closed_port()}/x"], 10)

    assert time.monotonic() - began < 5
