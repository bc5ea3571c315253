"""The arithmetic of the soak: which processes count, what they hold, and when it is a leak."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from scripts import memory_soak
from scripts.memory_soak import Held, find_replicas, growth_mb, look, read_photos, table

ROOT = Path(__file__).resolve().parents[2]


def process(proc: Path, pid: int, title: str, parent: int, own_kib: int = 1024) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "cmdline").write_bytes(title.encode().replace(b" ", b"\0"))
    (folder / "stat").write_text(f"{pid} (ray::Serve) a (b) S {parent} 1 1")
    (folder / "status").write_text(
        f"Name:\tray\nVmRSS:\t  {own_kib + 2048} kB\nRssAnon:\t  {own_kib} kB\nThreads:\t1\n"
    )


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Two services, of one deployment each but for the first."""
    process(tmp_path, 10, "bash scripts/serve.sh", 1)
    process(tmp_path, 11, "raylet --x", 10)
    process(tmp_path, 13, "ray::ServeReplica:clearcut:LaMa", 11, own_kib=3 * 1024)
    process(tmp_path, 12, "ray::ServeReplica:clearcut:BiRefNet.handle_request", 11)
    process(tmp_path, 14, "ray::ServeController", 11)
    process(tmp_path, 20, "bash scripts/serve.sh", 1)
    process(tmp_path, 22, "ray::ServeReplica:clearcut:BiRefNet", 20)
    process(tmp_path, 30, "grep ray::ServeReplica:clearcut:BiRefNet", 1)
    (tmp_path / "self").mkdir()
    return tmp_path


def test_replicas_are_found_by_the_title_of_their_process(proc: Path) -> None:
    assert list(find_replicas(None, proc).items()) == [(12, "BiRefNet"), (22, "BiRefNet"), (13, "LaMa")]


def test_only_the_replicas_of_one_service_are_found_below_it(proc: Path) -> None:
    assert find_replicas(10, proc) == {12: "BiRefNet", 13: "LaMa"}
    assert find_replicas(30, proc) == {}


def test_what_a_process_holds_is_read_from_its_status(proc: Path) -> None:
    assert look(13, proc) == Held(resident_mb=5, own_mb=3)
    assert look(99, proc) is None


def test_a_process_that_ended_holds_nothing(proc: Path) -> None:
    (proc / "13" / "status").write_text("Name:\tray\nState:\tZ (zombie)\n")
    assert look(13, proc) is None


def test_memory_that_is_taken_shows() -> None:
    before = look(os.getpid())
    kept = mmap.mmap(
        -1, 30 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )  # not from the heap, which may have room that was freed
    for page in range(0, len(kept), mmap.PAGESIZE):
        kept[page] = 1
    after = look(os.getpid())
    kept.close()
    assert before is not None
    assert after is not None
    assert 25 < after.own_mb - before.own_mb < 60


def test_the_table_tells_the_growth_of_the_second_half() -> None:
    looks = [Held(400, 300), Held(420, 310), Held(423, 312)]
    lines = table({"LaMa (13)": looks, "MobileSAM (14)": [*looks[:2], None]}, 101).splitlines()
    assert " ".join(lines[2].split()) == "LaMa (13) 400 → 420 → 423 300 → 310 → 312 +2.0 +40.2 KiB"
    assert lines[3].split() == ["MobileSAM", "(14)", "ended"]


def test_a_process_that_ended_has_no_growth() -> None:
    assert growth_mb([Held(9, 5), Held(9, 4)]) == -1
    assert growth_mb([Held(9, 5), None]) is None


@pytest.mark.parametrize(
    ("own_mb", "code", "told"),
    [
        ([100, 190, 200], 0, ""),  # it settled
        ([100, 110, 170], 1, "grew by more than 50 MiB: LaMa (7)"),
        ([100, 110, None], 1, "ended meanwhile: LaMa (7)"),
    ],
)
def test_the_second_half_decides(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    own_mb: list[float | None],
    code: int,
    told: str,
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(memory_soak, "find_replicas", lambda pid: {7: "LaMa"})
    monkeypatch.setattr(memory_soak, "send", lambda client, photos, count, what: sent.append(count))
    monkeypatch.setattr(
        memory_soak, "look", lambda pid: None if (mb := own_mb[len(sent) - 1]) is None else Held(mb, mb)
    )

    assert memory_soak.main(["--requests", "9", "--warm-up", "3"]) == code

    assert sent == [3, 4, 5]
    assert told in capsys.readouterr().err


def test_the_photo_is_sent_in_three_sizes() -> None:
    photos = read_photos(ROOT / "tests" / "data" / "coffee.jpg")
    assert [len(photo) for photo in photos] == sorted(len(photo) for photo in photos)
    assert len(photos) == 3


def test_a_file_that_is_no_image_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no image"):
        read_photos(tmp_path / "none.jpg")


def test_without_a_service_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(memory_soak, "find_replicas", lambda pid: {})
    assert memory_soak.main([]) == 1
    assert "no replica" in capsys.readouterr().err
