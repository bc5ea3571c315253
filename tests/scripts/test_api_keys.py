"""scripts/api_keys.py as an operator runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.jobs.api_keys import ApiKeys, fingerprint
from scripts import api_keys

ROOT = Path(__file__).resolve().parents[2]
KEY = r"cc_[0-9a-f]{8}_[0-9a-f]{40}\n"


@pytest.fixture(autouse=True)
def work_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DATABASE_URL", "API_KEY_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORK_DIR", str(tmp_path / "work"))
    return tmp_path / "work"


def test_create_prints_the_key_and_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/api_keys.py"), "create", "--tier", "pro", "--name", "bench"],
        cwd="/",
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, re.fullmatch(KEY, done.stdout) is not None) == (0, True), done.stderr
    assert "only time it is shown" in done.stderr
    assert done.stdout.strip() not in done.stderr


def test_the_service_knows_the_key(capsys: pytest.CaptureFixture[str], work_dir: Path) -> None:
    api_keys.main(["create", "--tier", "basic", "--name", "bench"])

    keys = ApiKeys(f"sqlite:///{work_dir / 'jobs.db'}")
    found = keys.find(fingerprint(capsys.readouterr().out.strip()) or "")
    keys.close()
    assert found is not None
    assert (found.name, found.tier) == ("bench", "basic")


def test_rotate_prints_another_key(capsys: pytest.CaptureFixture[str]) -> None:
    api_keys.main(["create", "--name", "bench"])
    first = capsys.readouterr().out

    assert api_keys.main(["rotate", "bench", "--grace", "1.5"]) == 0

    second = capsys.readouterr()
    assert re.fullmatch(KEY, second.out)
    assert second.out != first
    assert "goes on for 1.5 hours" in second.err


def test_list_shows_no_secret(capsys: pytest.CaptureFixture[str]) -> None:
    api_keys.main(["create", "--name", "bench", "--tier", "pro"])
    api_keys.main(["create", "--name", "old"])
    api_keys.main(["revoke", "old"])
    keys = re.findall(KEY, capsys.readouterr().out)

    assert api_keys.main(["list"]) == 0

    head, bench, old = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "tier", "key", "created", "last", "used", "state"]
    assert re.fullmatch(rf"bench  pro   {keys[0][:11]}_…  \d{{4}}-\d\d-\d\d \d\d:\d\dZ  never      in use", bench)
    assert re.search(r"ended \d{4}-\d\d-\d\d \d\d:\d\dZ$", old)
    assert keys[0][12:52] not in bench


def test_a_revoked_key_cannot_be_revoked_again(capsys: pytest.CaptureFixture[str]) -> None:
    api_keys.main(["create", "--name", "bench"])

    assert api_keys.main(["revoke", "bench"]) == 0
    assert api_keys.main(["revoke", "bench"]) == 1

    assert "api_keys.py: No key in use has that name or prefix." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"WORK_DIR": "s3://bucket/prefix"}, "WORK_DIR is object storage, which holds no database"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, "does not answer"),
        ({"DATABASE_URL": "mysql://nobody@127.0.0.1:1/nothing"}, "must name SQLite or PostgreSQL"),
        ({"WORK_DIR": "/dev/null/work"}, "/dev/null/work: Not a directory"),
        ({"RATE_LIMIT_PER_MINUTE": "many"}, "values that cannot be used: RATE_LIMIT_PER_MINUTE"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    variables: dict[str, str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert api_keys.main(["list"]) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert told in printed.err
    assert printed.err.startswith("api_keys.py: ")
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(
    "arguments", [[], ["create"], ["rotate", "a", "--grace", "-1"], ["rotate", "a", "--grace", "nan"]]
)
def test_usage_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        api_keys.main(arguments)

    assert end.value.code == 2
    assert "usage: " in capsys.readouterr().err
