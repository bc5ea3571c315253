"""What the two commands of the README stand on: shell scripts, lock files, the patched Serve config."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from scripts import check_lock, patch_config

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "scripts" / "requirements").glob("*.lock"))
SHELL_SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# --- shell ---


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_a_shell_script_can_be_parsed_and_run(script: Path) -> None:
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", script], check=True)


def test_set_up_takes_the_version_of_torch_from_the_project() -> None:
    """setup_env.sh reads pyproject.toml with sed: it must find this very form."""
    torch = [r for r in PROJECT["project"]["dependencies"] if r.startswith("torch")]

    assert re.fullmatch(r"torch==[\d.]+", torch[0])
    assert len(re.findall(r'^ *"torch==([0-9.]+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)) == 1


# --- lock files ---


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_pins_every_package_with_hashes(lock: Path) -> None:
    blocks = re.sub(r"\\\n", "", re.sub(r"^#.*\n", "", lock.read_text(), flags=re.MULTILINE)).splitlines()

    assert blocks
    for block in blocks:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z0-9,]+\])?==[^ ]+ .*--hash=sha256:[0-9a-f]{64}", block), block


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_names_no_host_and_no_option(lock: Path) -> None:
    text = lock.read_text()

    assert "://" not in text
    assert not re.search(r"^\s*-", re.sub(r"^    --hash=.*$", "", text, flags=re.MULTILINE), re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_neither_torch_nor_its_cuda_libraries_are_locked(lock: Path) -> None:
    assert not [name for name in check_lock.pins(lock.read_text()) if re.match("torch$|triton$|nvidia-|cuda-", name)]


def test_the_locks_belong_to_the_project() -> None:
    assert check_lock.main() == 0


def test_the_development_lock_holds_the_base_lock() -> None:
    base, dev = (check_lock.pins((ROOT / f"scripts/requirements/{name}.lock").read_text()) for name in ("base", "dev"))

    assert base.items() <= dev.items()


def test_optional_groups_are_not_locked() -> None:
    pinned = check_lock.pins((ROOT / "scripts/requirements/dev.lock").read_text())

    assert not pinned.keys() & {"tensorrt", "pycuda", "mobile-sam", "simple-lama-inpainting"}


@pytest.mark.parametrize(
    ("requirement", "problem"),
    [
        ("numpy>=2", None),
        ("NumPy", None),
        ("ray[serve]==2.60.0", None),
        ("torch==2.13.0", None),
        ("numpy>=3", "numpy 2.4.6 is not >=3"),
        ("scipy", "scipy is missing"),
    ],
)
def test_a_lock_that_does_not_answer_a_requirement_is_told(requirement: str, problem: str | None) -> None:
    lock = "# comment\nnumpy==2.4.6 \\\n    --hash=sha256:00\nray[serve]==2.60.0 \\\n    --hash=sha256:00\n"

    assert check_lock.problems([requirement], lock) == ([problem] if problem else [])


# --- the patched config ---


def test_host_and_port_replace_the_config_s_own() -> None:
    config = {"http_options": {"host": "127.0.0.1", "port": 8000, "keep_alive_timeout_s": 5}, "applications": []}

    patched = patch_config.patch(config, host="0.0.0.0", port=9000)

    assert patched["http_options"] == {"host": "0.0.0.0", "port": 9000, "keep_alive_timeout_s": 5}
    assert config["http_options"]["port"] == 8000


def test_what_is_not_given_stays() -> None:
    config = {"http_options": {"port": 8000}}

    assert patch_config.patch(config) == config
    assert patch_config.patch({}, port=81) == {"http_options": {"port": 81}}


@pytest.mark.parametrize("config", [{}, {"http_options": None}, {"http_options": {}}])
def test_a_config_without_an_address_listens_where_serve_does(config: dict[str, object]) -> None:
    assert patch_config.address(config) == ("127.0.0.1", 8000)


def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")

    with pytest.raises(ValueError, match="no mapping"):
        patch_config.read(tmp_path / "list.yaml")


def test_a_written_config_reads_back_the_same(tmp_path: Path) -> None:
    config = {"http_options": {"port": 1}, "applications": [{"name": "é", "args": {"device": None}}]}

    patch_config.write(config, tmp_path / "out.yaml")

    assert patch_config.read(tmp_path / "out.yaml") == config
    assert yaml.safe_load((tmp_path / "out.yaml").read_text(encoding="utf-8")) == config
