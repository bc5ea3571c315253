"""The command line: what it prints, what it leaves, and how it exits."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.models import zoo
from pipeline.models.download import Patience
from pipeline.models.files import only_writer, part_of
from pipeline.models.weights import find_weights
from pipeline.models.zoo import Variant
from scripts import download_models
from scripts.download_models import OFFLINE, OK, USAGE, WRONG
from tests.file_server import FileServer, Served, serve_files
from tests.pipeline.models.weight_files import small, variant_of

ROOT = Path(__file__).resolve().parents[2]
HASTE = Patience(answer_s=1, stall_s=0.3, silence_s=2, pause_s=0.01)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "MODELS_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serve_files() as found:
        yield found


@pytest.fixture
def variant(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Variant:
    """The only row of the table, a pickle; ``product`` stands in for it."""
    published = tmp_path / "published.pt"
    torch.save(small().state_dict(), published)
    variant = variant_of(
        published, format="pickle", urls=(server.add("/weights", Served(published.read_bytes())), f"{server.url}/none")
    )
    monkeypatch.setattr(zoo, "VARIANTS", {"small": variant})
    monkeypatch.setattr(download_models, "VARIANTS", zoo.VARIANTS)
    stand_ins = {"product": zoo.StandIn("small", "There is none.")}
    monkeypatch.setattr(zoo, "STAND_INS", stand_ins)
    monkeypatch.setattr(download_models, "STAND_INS", stand_ins)
    return variant


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


def run(models_dir: Path, *arguments: str | Path) -> int:
    return download_models.main([*map(str, arguments), "--models-dir", str(models_dir)], patience=HASTE)


def test_a_named_variant_is_fetched(variant: Variant, models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models_dir, "small") == OK

    assert find_weights(models_dir, variant).origin == "official"
    assert f"small: fetched, verified: {models_dir / variant.file_name}" in capsys.readouterr().out


def test_a_second_run_finds_it_there(
    variant: Variant, models_dir: Path, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run(models_dir, "all")

    assert run(models_dir, "all") == OK

    assert "small: already there" in capsys.readouterr().out
    assert len(server.requests) == 1


def test_without_a_terminal_lines_tell_how_far_it_is(
    variant: Variant, models_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_models, "LINE_EVERY_S", 0)
    assert run(models_dir, "small") == OK

    assert "small: 0 of 0 MB" in capsys.readouterr().out


def test_lines_are_no_more_than_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    tell = download_models.lines("small", 2_000_000)
    for done in range(1000):
        tell(done)

    assert capsys.readouterr().out == ""


def test_a_stand_in_says_so(variant: Variant, models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models_dir, "product", "small") == OK

    out = capsys.readouterr().out
    assert "product: There is none. 'small' stands in for it." in out
    assert out.count("verified") == 1


def test_an_unknown_name_is_a_usage_error(models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(models_dir, "nonesuch") == USAGE

    assert "Known are: general" in capsys.readouterr().err
    assert not models_dir.exists()


@pytest.mark.parametrize(("flag", "first"), [("--gpu", "general"), ("--cpu", "lite")])
def test_without_a_name_the_default_set_is_meant(flag: str, first: str) -> None:
    options = download_models.parse([flag])

    assert [v.name for v in download_models.wanted([], has_gpu=options.gpu)] == [first, "mobile-sam", "lama"]


def test_all_is_every_row() -> None:
    assert download_models.wanted(["all"], has_gpu=False) == list(zoo.VARIANTS.values())


def test_wrong_bytes_exit_with_an_error(
    variant: Variant, models_dir: Path, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/weights"].data = server.files["/weights"].data[::-1]

    assert run(models_dir, "small") == WRONG

    error = capsys.readouterr().err
    assert "not one address gave the right file" in error
    assert "SHA-256 differs" in error
    assert f"{server.url}/none: it answers 404" in error
    assert [path.name for path in models_dir.iterdir()] == [".lock"]


def test_without_a_connection_it_says_what_to_do(
    variant: Variant, models_dir: Path, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/weights"].hangs_before = True
    server.files["/none"] = Served(hangs_before=True)
    began = time.monotonic()

    assert run(models_dir, "small") == OFFLINE

    error = capsys.readouterr().err
    assert "small: no connection" in error
    assert str(models_dir / variant.download_name) in error
    assert time.monotonic() - began < HASTE.silence_s + HASTE.answer_s


def test_without_a_connection_the_other_variants_are_not_tried(
    variant: Variant, models_dir: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("/weights", "/none"):
        server.files[path] = Served(hangs_before=True)
    monkeypatch.setitem(zoo.VARIANTS, "again", variant)

    assert run(models_dir, "all") == OFFLINE

    assert len(server.requests) == 2


def test_two_downloads_into_one_folder_are_refused(
    variant: Variant, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with only_writer(models_dir):
        assert run(models_dir, "small") == WRONG

    assert "another download" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told(
    variant: Variant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    assert run(tmp_path / "file" / "models", "small") == WRONG

    assert "Not a directory" in capsys.readouterr().err


# --- files at hand ---


def test_a_file_fetched_by_hand_is_taken(
    variant: Variant, models_dir: Path, tmp_path: Path, server: FileServer
) -> None:
    assert run(models_dir, "small", "--from", tmp_path / "published.pt") == OK

    assert find_weights(models_dir, variant).origin == "official"
    assert server.requests == []


def test_own_weights_are_taken_as_custom(
    variant: Variant, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(small(seed=2).state_dict(), tmp_path / "mine.safetensors")

    assert run(models_dir, "small", "--custom", tmp_path / "mine.safetensors") == OK

    assert "Small+custom" in capsys.readouterr().out
    assert find_weights(models_dir, variant, allow_unpinned=True).origin == "custom"


@pytest.mark.parametrize("option", ["--from", "--custom"])
@pytest.mark.parametrize(("content", "problem"), [(None, "there is no"), (b"rubbish", "rubbish.pt")])
def test_a_file_that_will_not_do_is_told(
    variant: Variant,
    models_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    content: bytes | None,
    problem: str,
) -> None:
    if content is not None:
        (tmp_path / "rubbish.pt").write_bytes(content)

    assert run(models_dir, "small", option, tmp_path / "rubbish.pt") == WRONG

    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("names", [[], ["all"], ["small", "product"]])
def test_a_file_without_one_name_is_a_usage_error(
    variant: Variant, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str]
) -> None:
    assert run(models_dir, *names, "--from", tmp_path / "published.pt") == USAGE

    assert "exactly one NAME" in capsys.readouterr().err


# --- looking ---


def test_verify_finds_damage(variant: Variant, models_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(models_dir, "small")
    assert run(models_dir, "--verify") == OK
    assert "small: official" in capsys.readouterr().out
    path = models_dir / variant.file_name
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    assert run(models_dir, "--verify") == WRONG

    assert "changed or damaged" in capsys.readouterr().err


def test_verify_fetches_nothing_and_misses_only_what_is_named(
    variant: Variant, models_dir: Path, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(models_dir, "--verify") == OK
    assert run(models_dir, "--verify", "small") == WRONG

    assert "small: missing" in capsys.readouterr().err
    assert server.requests == []
    assert not models_dir.exists()


def test_verify_names_half_and_unpinned_files(
    variant: Variant, models_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(small(seed=2).state_dict(), tmp_path / "mine.safetensors")
    run(models_dir, "small", "--custom", tmp_path / "mine.safetensors")
    part_of(models_dir / variant.download_name).write_bytes(b"half")

    assert run(models_dir, "--verify") == OK

    out = capsys.readouterr().out
    assert "small: custom" in out
    assert "unfinished" in out


def test_if_missing_leaves_what_is_there_unchecked(variant: Variant, models_dir: Path, server: FileServer) -> None:
    models_dir.mkdir()
    (models_dir / variant.file_name).write_bytes(b"loading will refuse it")

    assert run(models_dir, "small", "--if-missing") == OK

    assert server.requests == []


def test_the_list_shows_every_variant_and_what_is_there(
    variant: Variant, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(models_dir, "small")
    capsys.readouterr()

    assert run(models_dir, "--list") == OK

    out = capsys.readouterr().out
    assert "small       official" in out
    assert "product     is small" in out


# --- as a program ---


def test_it_runs_from_any_folder_without_torch(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MODELS_DIR")}
    script = ROOT / "scripts" / "download_models.py"
    code = f"import runpy, sys; sys.argv = [{str(script)!r}, '--list']\n"
    code += f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
    code += "except SystemExit as end: sys.exit(end.code or 'torch' in sys.modules)"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )

    assert "BiRefNet_lite" in done.stdout


def test_the_models_folder_is_the_repository_s_unless_the_environment_names_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(download_models, "print_table", lambda variants, models_dir: seen.append(models_dir))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELS_DIR", "/weights")
    download_models.main(["--list"])
    monkeypatch.setenv("MODELS_DIR", "elsewhere")
    download_models.main(["--list"])

    assert seen == [Path("/weights"), ROOT / "elsewhere"]


def test_settings_that_cannot_be_used_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "many")

    assert download_models.main(["--list"]) == WRONG

    assert "cannot be used: PORT" in capsys.readouterr().err
