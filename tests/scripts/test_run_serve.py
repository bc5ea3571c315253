"""The supervisor of `serve run`, with small programs in its place."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts import run_serve

ROOT = Path(__file__).resolve().parents[2]
POLITE = """
import signal, sys, time
print("started", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
WITH_ORPHAN = """
import subprocess, sys
# setsid and a parent that has gone: only its ancestor can still find it
subprocess.run([sys.executable, "-c", '''
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True).pid, flush=True)
'''])
sys.exit(3)
"""


def supervise(program: str) -> subprocess.Popen[str]:
    supervisor = (
        "import sys; from scripts import run_serve; run_serve.LINGER_S = 0.3; "
        "sys.exit(run_serve.supervise([sys.executable, '-c', sys.argv[1]]))"
    )
    return subprocess.Popen([sys.executable, "-c", supervisor, program], cwd=ROOT, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_reaches_the_program_as_ctrl_c(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # the tests themselves may run under nohup
    try:
        process = supervise(POLITE)
    finally:
        signal.signal(number, before)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(number)
        assert "interrupted" in process.stdout.read()
    assert process.returncode == 0


def test_ctrl_c_works_where_the_shell_has_switched_it_off() -> None:
    """A script's background job starts with SIGINT ignored."""
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = supervise(POLITE)
    finally:
        signal.signal(signal.SIGINT, ignored)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        assert "interrupted" in process.stdout.read()
    assert process.returncode == 0


def test_processes_that_outlive_the_program_are_ended_and_its_exit_code_is_kept() -> None:
    with supervise(WITH_ORPHAN) as process:
        assert process.stdout is not None
        orphan = int(process.stdout.read())
    assert process.returncode == 3
    assert not Path(f"/proc/{orphan}").exists()


def test_a_program_that_ends_by_itself_is_a_failure() -> None:
    with supervise("") as process:
        pass
    assert process.returncode == 1


def test_the_second_signal_does_not_wait() -> None:
    with supervise(f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{POLITE}") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    assert time.monotonic() - started < 10


def test_what_the_environment_says_goes_first() -> None:
    given = {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": "/mine"}

    environment = run_serve.environment(given)

    assert environment["RAY_AUTH_MODE"] == "disabled"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
    assert environment["PYTHONPATH"] == f"{ROOT}:/mine"


def test_an_occupied_port_is_told_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(SystemExit, match=f"cannot listen on 127.0.0.1:{port}"):
            run_serve.check_free("127.0.0.1", port)
    run_serve.check_free("127.0.0.1", port)


def test_only_settings_that_are_given_replace_the_config_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOST", raising=False)
    monkeypatch.setenv("PORT", "9001")
    (tmp_path / ".env").write_text("PORT=9000\nWORK_DIR=elsewhere\n")

    settings = run_serve.settings_of(tmp_path)

    assert settings.port == 9001
    assert {"host", "port"} & settings.model_fields_set == {"port"}


def test_a_setting_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "99999")

    with pytest.raises(SystemExit, match="PORT: Input should be less than or equal to 65535"):
        run_serve.settings_of(tmp_path)
