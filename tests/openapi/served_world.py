"""The application over stubs behind a real server, in a thread: for clients that are programs of their own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from tests.deployments.world import open_world
from tests.stub_models import PATIENCE_S


@dataclass(frozen=True)
class ServedWorld:
    """A service without Ray: where it answers, and its OpenAPI description."""

    url: str
    document: dict[str, Any]


@contextlib.contextmanager
def served_world(folder: Path, **settings: Any) -> Iterator[ServedWorld]:
    """A service without Ray, up for as long as the context lasts."""
    listener = socket.create_server(("127.0.0.1", 0))
    started, stop = threading.Event(), threading.Event()
    problems: list[BaseException] = []
    documents: list[dict[str, Any]] = []

    async def run() -> None:
        async with open_world(folder, **settings) as world:
            documents.append(world.app.openapi())
            config = uvicorn.Config(world.app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            task = asyncio.create_task(server.serve([listener]))
            try:
                while not server.started:
                    await asyncio.sleep(0.005)
                started.set()
                await asyncio.to_thread(stop.wait)
            finally:
                server.should_exit = True
                await task

    def target() -> None:
        try:
            asyncio.run(run())
        except BaseException as problem:
            problems.append(problem)
        finally:
            started.set()

    thread = threading.Thread(target=target, name="served world")
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        assert not problems, problems
        yield ServedWorld(f"http://127.0.0.1:{listener.getsockname()[1]}", documents[0])
    finally:
        stop.set()
        thread.join()
        listener.close()
    if problems:
        raise problems[0]
