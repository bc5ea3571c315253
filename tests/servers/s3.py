"""An S3 server on loopback: moto's, which keeps its objects in memory."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import obstore
import pytest
from obstore.store import S3Store

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test-secret", "AWS_REGION": "us-east-1"}
_OTHERS = ("AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION")


@dataclass(frozen=True)
class S3Server:
    """A running server.

    Attributes:
        url: Its address, for ``AWS_ENDPOINT_URL``.
    """

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it, beside ``WORK_DIR=s3://...``."""
        return {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.url}

    def new_bucket(self) -> str:
        """The name of a bucket that nobody else uses."""
        name = f"test-{uuid.uuid4().hex}"
        httpx.put(f"{self.url}/{name}").raise_for_status()
        return name

    def keys(self, bucket: str) -> list[str]:
        """Everything in a bucket, in order of name; this process's environment must point here."""
        store = S3Store(bucket, client_options={"allow_http": True})
        return sorted(found["path"] for found in obstore.list(store).collect())


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """moto's server on a free port of 127.0.0.1."""
    from moto.server import ThreadedMotoServer  # 0.2 s that only the tests of S3 shall spend

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Server(f"http://{host}:{port}")
    finally:
        server.stop()


def use_s3(environment: pytest.MonkeyPatch, url: str) -> None:
    """Points the ``AWS_*`` variables of this process at ``url``, with credentials."""
    for name in _OTHERS:
        environment.delenv(name, raising=False)
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": url}.items():
        environment.setenv(name, value)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests that need one."""
    with running_s3() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with this process's environment pointing at it."""
    use_s3(monkeypatch, s3_server.url)
    return s3_server
