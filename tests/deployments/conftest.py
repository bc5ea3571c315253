"""A service without Ray for the tests of the routes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.deployments.world import World, open_world

OpenWorld = Callable[..., AbstractAsyncContextManager[World]]


@pytest.fixture
def new_world(tmp_path: Path) -> OpenWorld:
    """Opens a service with other stubs or settings: ``async with new_world(matting=...) as world``."""
    return partial(open_world, tmp_path / "work")


@pytest.fixture
async def world(new_world: OpenWorld) -> AsyncIterator[World]:
    """A service with stubs that answer at once."""
    async with new_world() as opened:
        yield opened


@pytest.fixture
def client(world: World) -> httpx.AsyncClient:
    """A client of that service."""
    return world.client


@pytest.fixture
def service_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the service logs; Ray keeps its logger from the root, where pytest listens."""
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "ray.serve"):
        yield caplog
    logger.removeHandler(caplog.handler)


@pytest.fixture(autouse=True)
def same_library_log() -> Iterator[None]:
    """A replica sends what the library logs to Serve's handlers, for the rest of its process."""
    library = logging.getLogger("pipeline")
    before = library.handlers, library.level
    yield
    library.handlers = before[0]
    library.setLevel(before[1])
