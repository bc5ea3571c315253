"""A web server, and an environment whose proxy settings do not reach it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.file_server import FileServer, serve_files


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    with serve_files() as found:
        yield found
