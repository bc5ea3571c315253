"""A job's end is told to its callback_url: at once, and after a restart if it could not be told before."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import SecretStr

from deployments.callbacks.rules import CallbackRules
from deployments.job_manager import send_callbacks
from pipeline.config import Settings
from tests.callback_receiver import Receiver, plain, receiving
from tests.deployments.job_process import ONE, run
from tests.stub_models import PATIENCE_S, HeldSegmenter


def rules_for(receiver: Receiver) -> CallbackRules:
    return CallbackRules.of(
        Settings(
            _env_file=None,
            callback_hosts=f"127.0.0.1:{receiver.port}",
            callback_secret=SecretStr("secret"),
            callback_private_networks="127.0.0.0/8",
        )
    )


async def test_ready_failed_and_canceled_jobs_are_told(tmp_path: Path) -> None:
    held = HeldSegmenter()
    async with receiving() as receiver, run(tmp_path, segmenter=held) as process:
        send_callbacks(process.scheduler, rules_for(receiver))
        await process.begin("canceled", callback_url=receiver.url(path="/canceled"))
        await process.scheduler.cancel("canceled")
        await receiver.wait_for(1)
        held.release.set()
        await process.begin("ready", callback_url=receiver.url(path="/ready"))
        await process.add("failed", upload=False)
        await process.scheduler.segment("failed", ONE, callback_url=receiver.url(path="/failed"))
        await process.begin("untold")
        requests = await receiver.wait_for(3)
        await process.store.ended("untold")
        async with asyncio.timeout(PATIENCE_S):
            while process.store.next_delivery_at() is not None:
                await asyncio.sleep(0.01)
    assert {request.path for request in requests} == {"/ready", "/failed", "/canceled"}


async def test_what_a_stopped_process_did_not_tell_the_next_one_tells_under_the_same_id(tmp_path: Path) -> None:
    async with receiving() as receiver:
        receiver.answer = lambda request: None
        async with run(tmp_path) as process:
            send_callbacks(process.scheduler, rules_for(receiver))
            await process.begin("a", callback_url=receiver.url())
            await receiver.wait_for(1)
        receiver.answer = lambda request: plain(204)
        async with run(tmp_path) as process:
            send_callbacks(process.scheduler, rules_for(receiver))
            first, second = await receiver.wait_for(2)
            async with asyncio.timeout(PATIENCE_S):
                while process.store.next_delivery_at() is not None:
                    await asyncio.sleep(0.01)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.body == second.body
