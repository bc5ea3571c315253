"""Replicas behind the pipeline's protocols. Serve's responses and Ray's errors end here.

A call waits, and whoever stops waiting (a deadline, a client that went away) cancels the replica's work: a deadline
alone would let it run on.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, TypeAlias, cast

from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    ObjectLostError,
    OwnerDiedError,
    RayError,
    RayTaskError,
)
from ray.serve.exceptions import BackPressureError, RayServeException, RequestCancelledError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from deployments.model_status import ModelStatus
from pipeline.errors import ClearcutError, EmbeddingLost, InferenceError, ModelNotLoaded, Overloaded, ReplicaDied
from pipeline.types import EmbeddingRef, EngineInfo, Image, Mask, MaskCandidates, MattingResult, Prompt

Handle: TypeAlias = DeploymentHandle[Any]
Response: TypeAlias = DeploymentResponse[Any]

logger = logging.getLogger("ray.serve")

INFERENCE_TIMEOUT_S = 120.0
"""Longest wait for one answer of a model, queueing included; requests have deadlines of their own below it."""

STATUS_TIMEOUT_S = 2.0


async def call(
    send: Callable[[], Any],
    *,
    timeout_s: float = INFERENCE_TIMEOUT_S,
    retry: bool = True,
    again: Callable[[], Any] | None = None,
    turn: AbstractAsyncContextManager[object] | None = None,
) -> Any:
    """The answer to ``send()``; asked once more if the replica died, unless the work must not run twice.

    Args:
        send: Sends the call.
        timeout_s: Longest wait for each answer, in seconds.
        retry: Whether the work may run twice.
        again: Sends it the second time, if that differs.
        turn: Held during the second time.

    Raises:
        ClearcutError: What the replica raised; or ``Overloaded``, ``EmbeddingLost``, ``InferenceError``.
        ReplicaDied: It died under the second call as well.
        TimeoutError: No answer in time; the replica's work is cancelled.
    """
    try:
        return await _once(send(), timeout_s)
    except (ActorDiedError, ActorUnavailableError) as error:
        if not retry:
            raise _restarting(Overloaded) from error
        logger.warning("A replica died during a call; asking once more.")
    try:
        async with turn or nullcontext():
            return await _once((again or send)(), timeout_s)
    except ActorUnavailableError as error:
        raise _restarting(Overloaded) from error
    except ActorDiedError as error:
        raise _restarting(ReplicaDied) from error


def _restarting(kind: type[Overloaded]) -> Overloaded:
    return kind("A part of the service is restarting. Try again in a few seconds.", retry_after=5)


async def _once(response: Response, timeout_s: float) -> Any:
    try:
        async with asyncio.timeout(timeout_s):  # wait_for would swallow a cancellation that comes with the answer
            return await _answer(response)
    except (ActorDiedError, ActorUnavailableError, ClearcutError, TimeoutError):
        raise
    except BackPressureError as error:
        raise Overloaded("The service is busy. Try again in a few seconds.", retry_after=2) from error
    except (ObjectLostError, OwnerDiedError) as error:
        raise EmbeddingLost("The image has to be embedded again.") from error
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ClearcutError):
            raise cause from None
        if isinstance(cause, ObjectLostError | OwnerDiedError):
            raise EmbeddingLost("The image has to be embedded again.") from error
        logger.error("A replica failed.", exc_info=error)
        raise InferenceError("Model inference failed") from error
    except (RayError, RayServeException, RequestCancelledError) as error:
        logger.error("A call between deployments failed.", exc_info=error)
        raise InferenceError("Model inference failed") from error


async def _answer(response: Response) -> Any:
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()  # type: ignore[no-untyped-call]
        raise


class RemoteModel:
    """A handle whose engine is asked for its description once.

    What a replica died under is asked again ``alone``: in a batch of its own, and one call of this process after the
    other, for whichever killed the replica may do so again and would take the others with it.
    """

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._info: EngineInfo | None = None
        self._alone = asyncio.Lock()

    async def status(self) -> ModelStatus:
        """What runs on a replica now."""
        send = self._handle.options(method_name="status").remote
        return cast(ModelStatus, await call(send, timeout_s=STATUS_TIMEOUT_S))

    async def info(self) -> EngineInfo:
        if self._info is None:
            send = self._handle.options(method_name="status").remote
            status = cast(ModelStatus, await call(send))
            if status.info is None:
                raise ModelNotLoaded(status.error or "The model is not loaded.")
            self._info = status.info
        return self._info

    async def _ask(self, send: Callable[..., Any]) -> Any:
        return await call(send, again=functools.partial(send, alone=True), turn=self._alone)


class RemoteMatting(RemoteModel):
    """The BiRefNet deployment as a ``Matting`` model."""

    async def alpha(self, image: Image) -> MattingResult:
        return cast(MattingResult, await self._ask(functools.partial(self._handle.alpha.remote, image)))


class RemoteSegmenter(RemoteModel):
    """The MobileSAM deployment as a ``Segmenter`` model; an embedding stays in the object store, where it was made."""

    async def embed(self, image: Image) -> EmbeddingRef:
        sent: list[Any] = []

        def send(**options: bool) -> Any:
            sent.append(self._handle.embed.remote(image, **options))
            return sent[-1]

        await self._ask(send)
        return sent[-1]

    async def masks(
        self, embedding: EmbeddingRef, prompts: Sequence[Prompt], *, candidates: int = 1
    ) -> list[MaskCandidates]:
        send = functools.partial(self._handle.masks.remote, embedding, list(prompts), candidates)
        return cast("list[MaskCandidates]", await self._ask(send))


class RemoteInpainter(RemoteModel):
    """The LaMa deployment as an ``Inpainter`` model."""

    async def inpaint(self, image: Image, mask: Mask) -> Image:
        return cast(Image, await self._ask(functools.partial(self._handle.inpaint.remote, image, mask)))
