"""The proof against a service that has kept its jobs, or has not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from scripts.chaos_parts.caller import Caller
from scripts.chaos_parts.ledger import Entry, Ledger
from scripts.chaos_parts.plans import TAP_SETS, Photo, Plan
from scripts.chaos_parts.proof import Proof, leftovers, prove
from scripts.chaos_parts.reference import Outcome

PLAN = Plan(Photo("a.jpg", b""), "one", TAP_SETS["one"])
PNG = cv2.imencode(".png", np.full((40, 70, 3), 90, np.uint8))[1].tobytes()
OTHER_PNG = cv2.imencode(".png", np.full((40, 70, 3), 99, np.uint8))[1].tobytes()
FILES = {"original.png": PNG, "inpainted_0.png": PNG}
WANTED = Outcome("ready", None, FILES)


class Jobs:
    """A service that knows these jobs: status documents and files by job id."""

    def __init__(self, **jobs: tuple[dict[str, Any], dict[str, bytes]]) -> None:
        self._jobs = jobs

    def __call__(self, request: httpx.Request) -> httpx.Response:
        what, job_id, *name = request.url.path.strip("/").split("/")
        if job_id not in self._jobs:
            gone = {"detail": "Job not found", "error_code": "JOB_NOT_FOUND", "request_id": "1"}
            return httpx.Response(404, json=gone)
        status, files = self._jobs[job_id]
        if what == "download":
            return httpx.Response(200, content=files[name[0]])
        return httpx.Response(200, json={"stage": "done", "progress": 100, "files": list(files), **status})


def entry(job_id: str = "a", **changes: Any) -> Entry:
    found = Entry("key", PLAN)
    found.uploaded({"job_id": job_id, "width": 70, "height": 40})
    found.segmented()
    for name, value in changes.items():
        setattr(found, name, value)
    return found


async def proof_of(jobs: Jobs, *entries: Entry) -> Proof:
    transport = httpx.MockTransport(jobs)
    async with Caller("http://service", random.Random(1), transport=transport) as caller:
        return await prove(caller, Ledger(list(entries)), {PLAN.name: WANTED})


async def test_jobs_that_ended_as_asked_with_the_same_files_are_proved() -> None:
    jobs = Jobs(
        a=({"status": "ready"}, FILES),
        b=({"status": "canceled"}, {"original.png": PNG}),
        c=({"status": "error", "error": "The model died twice."}, {"original.png": PNG}),
    )
    entries = [entry("a"), entry("b", cancel="done"), entry("c"), entry("d", cleanup="done")]
    proof = await proof_of(jobs, *entries)
    assert proof.problems == []
    assert proof.ended == {"ready": 1, "canceled": 1, "error": 1, "deleted": 1}
    assert proof.errors == ["a.jpg, one: The model died twice."]
    assert (proof.accepted, proof.files, proof.same_bytes) == (4, 4, 4)


@pytest.mark.parametrize(
    ("status", "files", "changes", "problem"),
    [
        ({"status": "ready"}, {**FILES, "inpainted_0.png": PNG[:-9]}, {}, "inpainted_0.png is torn"),
        ({"status": "ready"}, {**FILES, "inpainted_0.png": OTHER_PNG}, {}, "differs by 9.00 grey levels"),
        ({"status": "ready"}, {"original.png": PNG}, {}, "its files are ['original.png'] instead of"),
        ({"status": "error", "error": ""}, FILES, {}, "without a reason"),
        ({"status": "error", "error": "Died."}, {"original.png": PNG, "mask_0.png": b"x"}, {}, "mask_0.png is torn"),
        ({"status": "canceled"}, {"original.png": PNG}, {}, "nobody asked for that"),
        ({"status": "ready"}, FILES, {"cancel": "done"}, "it was canceled and is ready"),
        ({"status": "canceled"}, FILES, {"cancel": "done"}, "it is canceled and lists"),
        ({"status": "ready"}, FILES, {"cleanup": "done"}, "it was deleted and is back"),
        ({"status": "uploaded"}, {"original.png": PNG}, {}, "it did not end"),
        ({"status": "ready"}, FILES, {"job_ids": ["a", "b"]}, "its key has 2 jobs"),
        ({"status": "ready"}, FILES, {"problems": ["progress fell"]}, "progress fell"),
    ],
)
async def test_each_way_to_break_a_promise_is_told(
    status: dict[str, Any], files: dict[str, bytes], changes: dict[str, Any], problem: str
) -> None:
    proof = await proof_of(Jobs(a=(status, files)), entry(**changes))
    assert len(proof.problems) == 1
    assert problem in proof.problems[0]


async def test_a_job_that_is_gone_is_lost_unless_its_owner_deleted_it() -> None:
    proof = await proof_of(Jobs(), entry("a"), entry("b", cleanup="asked"))
    assert proof.problems == ["job a (a.jpg, one): it is lost: its status answers 404"]


async def test_a_job_that_never_was_accepted_counts_only_for_its_problems() -> None:
    refused = Entry("key", PLAN, problems=["POST /upload: 400 INVALID_IMAGE"])
    proof = await proof_of(Jobs(), refused, Entry("never sent", PLAN))
    assert proof.accepted == 0
    assert proof.problems == ["a.jpg, one: POST /upload: 400 INVALID_IMAGE"]


def test_what_lies_in_the_folder_and_should_not_is_noted(tmp_path: Path) -> None:
    for job_id in ("kept", "deleted", "unknown"):
        (tmp_path / "jobs" / job_id).mkdir(parents=True)
    (tmp_path / "jobs" / "kept" / ".mask_0.png.1.part").touch()
    ledger = Ledger([entry("kept"), entry("deleted", cleanup="done")])
    assert [note.split()[0:2] for note in leftovers(tmp_path, ledger)] == [
        ["1", "job"],
        ["1", "deleted"],
        ["1", "files"],
    ]
    assert leftovers(tmp_path / "none", ledger) == []
