"""What serve.sh does about missing weights before the service starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from pipeline.config import Settings
from pipeline.models import zoo
from pipeline.models.download import Patience
from pipeline.models.weights import find_weights
from pipeline.models.zoo import Variant
from scripts import download_models, fetch_weights
from scripts.fetch_weights import wanted
from tests.file_server import FileServer, Served, serve_files
from tests.pipeline.models.weight_files import small, variant_of

ROOT = Path(__file__).resolve().parents[2]
HASTE = Patience(answer_s=1, stall_s=0.3, silence_s=2, pause_s=0.01)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("MODELS_DIR", "CLEARCUT_DOWNLOAD", "BIREFNET_MODEL_PATH", "MOBILE_SAM_CHECKPOINT"),
    ):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(fetch_weights, "has_gpu", lambda: False)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serve_files() as found:
        yield found


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def variant(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Variant:
    """The only variant there is, and the default."""
    published = tmp_path / "published.pt"
    torch.save(small().state_dict(), published)
    variant = variant_of(published, format="pickle", urls=(server.add("/weights", Served(published.read_bytes())),))
    table = {"small": variant}
    monkeypatch.setattr(zoo, "VARIANTS", table)
    monkeypatch.setattr(download_models, "VARIANTS", table)
    monkeypatch.setattr(fetch_weights, "VARIANTS", table)
    monkeypatch.setattr(fetch_weights, "default_names", lambda has_gpu: ("small",))
    return variant


def run(config: Path | None = None) -> int:
    return fetch_weights.main([str(config)] if config else [], probe_s=1, patience=HASTE)


# --- fetching ---


def test_missing_weights_are_fetched_and_the_user_is_told(
    variant: Variant, models_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0

    assert find_weights(models_dir, variant).origin == "official"
    said = capsys.readouterr().out
    assert "serve.sh: fetching model weights (small: 0 MB) once" in said
    assert "--no-download starts without them" in said


def test_with_all_weights_there_nothing_is_asked_and_nothing_said(
    variant: Variant, models_dir: Path, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    models_dir.mkdir()
    (models_dir / variant.file_name).touch()

    assert run() == 0

    assert (server.requests, capsys.readouterr().out) == ([], "")
    assert [path.name for path in models_dir.iterdir()] == [variant.file_name]


def test_without_a_connection_the_start_is_hardly_delayed_and_the_user_knows_what_to_do(
    variant: Variant, models_dir: Path, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/weights"].hangs_before = True
    began = time.monotonic()

    assert fetch_weights.main([], probe_s=0.3) == 0

    assert time.monotonic() - began < 5
    said = capsys.readouterr().out
    assert "there is no connection" in said
    assert "scripts/download_models.py" in said
    assert not models_dir.exists()


def test_the_probe_gives_up_within_three_seconds() -> None:
    assert fetch_weights.PROBE_S <= 3


def test_a_download_that_fails_is_told_and_leaves_no_weights(
    variant: Variant, models_dir: Path, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["/weights"].data = server.files["/weights"].data[::-1]

    assert run() == download_models.WRONG

    told = capsys.readouterr()
    assert "SHA-256 differs" in told.err
    assert "embedded engines take their place" in told.out
    assert not (models_dir / variant.file_name).exists()


def test_nothing_is_fetched_if_the_environment_says_so(
    variant: Variant, models_dir: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLEARCUT_DOWNLOAD", "0")

    assert run() == 0

    assert server.requests == []
    assert not models_dir.exists()


def test_the_named_configuration_decides(variant: Variant, server: FileServer, tmp_path: Path) -> None:
    config = tmp_path / "embedded.yaml"
    config.write_text(yaml.safe_dump(with_args(engine="embedded")))

    assert run(config) == 0

    assert server.requests == []


# --- which weights ---


def with_args(**args: object) -> dict[str, Any]:
    return {"applications": [{"name": "clearcut", "args": args}]}


def names(config: dict[str, Any], folder: Path, **settings: Any) -> list[str]:
    return [variant.name for variant in wanted(config, Settings(_env_file=None, **settings), folder)]


@pytest.mark.parametrize(
    ("args", "gpu", "expected"),
    [
        ({}, False, ["lite", "mobile-sam", "lama"]),
        ({"engine": "torch", "device": "auto"}, True, ["general", "mobile-sam", "lama"]),
        ({"device": "cpu"}, True, ["lite", "mobile-sam", "lama"]),
        ({"variant": "general"}, False, ["general", "mobile-sam", "lama"]),
        ({"engine": "embedded"}, True, []),
    ],
)
def test_the_configuration_names_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: dict[str, object], gpu: bool, expected: list[str]
) -> None:
    monkeypatch.setattr(fetch_weights, "has_gpu", lambda: gpu)
    assert names(with_args(**args), tmp_path) == expected


def test_the_configuration_of_the_repository_wants_the_default_set(tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert names(config, tmp_path) == ["lite", "mobile-sam", "lama"]


def test_what_the_environment_names_is_not_fetched(tmp_path: Path) -> None:
    given = tmp_path / "mine"
    assert names(with_args(), tmp_path, birefnet_model_path=given) == ["mobile-sam", "lama"]
    assert names(with_args(), tmp_path, mobile_sam_checkpoint=given) == ["lite", "lama"]


def test_what_other_weights_stand_in_for_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "LaMa.safetensors").touch()
    assert names(with_args(allow_unpinned=True), tmp_path) == ["lite", "mobile-sam"]
    assert names(with_args(), tmp_path) == ["lite", "mobile-sam", "lama"]


def test_the_cpu_build_of_torch_has_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(download_models, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert fetch_weights.has_gpu()
    (tmp_path / ".torch").write_text("cpu\n")
    assert not fetch_weights.has_gpu()


# --- serve.sh, with small programs in the place of those it calls ---


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """serve.sh in a folder where the set-up does nothing, and ``python`` notes what it was to run."""
    folder = tmp_path / "repository"
    (folder / "scripts").mkdir(parents=True)
    (folder / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "serve.sh", folder / "scripts")
    program(folder / "scripts" / "setup_env.sh", 'echo "setup $*" >>calls')
    program(
        folder / ".venv" / "bin" / "python",
        'echo "$(basename "$1") ${2:-} download=${CLEARCUT_DOWNLOAD:-}" >>calls\n'
        'if [[ $1 == */fetch_weights.py ]]; then eval "${FETCH:-}"; fi',
    )
    return folder


def program(path: Path, body: str) -> None:
    path.write_text(
        f"#!/usr/bin/env bash\ncd {path.parent.parent if path.parent.name == 'scripts' else path.parents[2]}\n{body}\n"
    )
    path.chmod(0o755)


def serve(repository: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    script = str(repository / "scripts" / "serve.sh")
    env = {**os.environ, **variables}
    return subprocess.Popen([script, *arguments], cwd=repository, env=env, text=True, stdout=subprocess.PIPE)


def calls(repository: Path) -> list[str]:
    return (repository / "calls").read_text().splitlines()


def test_the_weights_come_between_the_set_up_and_the_service(repository: Path) -> None:
    config = repository / "mine.yaml"
    with serve(repository, "--cpu", str(config)):
        pass

    assert calls(repository) == [
        "setup --cpu",
        f"fetch_weights.py {config} download=",
        f"run_serve.py {config} download=",
    ]


def test_no_download_is_handed_on(repository: Path) -> None:
    with serve(repository, "--no-download"):
        pass

    assert calls(repository) == ["setup ", "fetch_weights.py  download=0", "run_serve.py  download=0"]


def test_the_service_starts_whatever_becomes_of_the_download(repository: Path) -> None:
    with serve(repository, FETCH="exit 3") as process:
        pass

    assert process.returncode == 0
    assert calls(repository)[-1].startswith("run_serve.py")


def test_a_signal_ends_the_download_and_nothing_starts(repository: Path) -> None:
    with serve(repository, FETCH="echo here; sleep 60 & wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 130

    assert calls(repository)[-1].startswith("fetch_weights.py")


def test_help_names_the_switch(repository: Path) -> None:
    with serve(repository, "--help") as process:
        assert process.stdout is not None
        assert "--no-download" in process.stdout.read()
