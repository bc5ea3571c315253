"""However a file is damaged, it is a picture or refused, and the decoders live on.

    .venv/bin/python -m pytest tests/fuzz -m "not slow"            # some seconds
    .venv/bin/python -m pytest tests/fuzz -m slow                  # two minutes, other damage each time
    FUZZ_MINUTES=480 .venv/bin/python -m pytest tests/fuzz -m slow --timeout 0 -s

A file that fails is written to the folder FUZZ_FOUND, /tmp unless set, and its name is in the message.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from pipeline.codecs import DecoderPool, ImageLimits, decode_image
from pipeline.errors import ImageRejected
from scripts.hostile_files import Specimen
from tests.fuzz.mutations import Damaged, damaged

MAX_FILE_BYTES = 100_000
SLOW_MINUTES = 2.0
EXAMPLES_A_ROUND = 2000
# One picture of the largest size (a decoder holds some of its memory for the next), no more however many there were.
ALLOWED_GROWTH_MB = 200.0
ALLOWED_SECONDS = 60.0


class Failure(AssertionError):
    pass


def check(data: bytes, decoders: DecoderPool) -> None:
    """Raises Failure unless the file is a picture or refused, in time, with all decoders alive."""
    broken = decoders.broken
    start = time.monotonic()
    try:
        picture = decode_image(data, ImageLimits(min_side_px=1))
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.shape[2] == 3
        assert picture.alpha is None or picture.alpha.shape == picture.pixels.shape[:2]
    except ImageRejected as error:
        problem = "a detail with internals" if re.search(r"/|Error|PIL|cv2|\b0x", error.detail) else None
    except Exception as error:
        problem = repr(error)
    else:
        problem = None
    if decoders.broken != broken:
        problem = "it broke its decoder"
    if time.monotonic() - start > ALLOWED_SECONDS:
        problem = "it took too long"
    if problem:
        raise Failure(f"{kept(data)}: {problem}")


def kept(data: bytes) -> Path:
    folder = Path(os.environ.get("FUZZ_FOUND") or tempfile.gettempdir())
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"clearcut-{hashlib.sha256(data).hexdigest()[:16]}.bin"
    path.write_bytes(data)
    return path


def own_mb(pid: int | str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return int(found[1]) / 1024


def small(corpus: list[Specimen]) -> list[Specimen]:
    return [specimen for specimen in corpus if 0 < len(specimen.data) <= MAX_FILE_BYTES]


def test_damaged_files_are_pictures_or_refused(corpus: list[Specimen], decoders: DecoderPool) -> None:
    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(damaged(small(corpus)))
    def run(file: Damaged) -> None:
        check(file.data, decoders)

    run()


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_damaged_files_for_minutes_harm_nothing(corpus: list[Specimen], decoders: DecoderPool) -> None:
    minutes = float(os.environ.get("FUZZ_MINUTES") or SLOW_MINUTES)
    deadline = time.monotonic() + 60 * minutes
    strategy = damaged(small(corpus))
    descriptors = len(os.listdir("/proc/self/fd"))
    held: dict[int | str, float] = {}
    count = 0
    first_seed = int.from_bytes(os.urandom(4))
    while time.monotonic() < deadline:

        @seed(first_seed + count)
        @settings(
            max_examples=EXAMPLES_A_ROUND,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def run(file: Damaged) -> None:
            nonlocal count
            count += 1
            if time.monotonic() < deadline:
                check(file.data, decoders)

        run()
        held = held or {pid: own_mb(pid) for pid in ("self", *decoders.pids())}
        grown = {pid: own_mb(pid) - mb for pid, mb in held.items() if pid == "self" or pid in decoders.pids()}
        print(f"{count} files, growth in MiB: {grown}", flush=True)
        assert max(grown.values()) < ALLOWED_GROWTH_MB
        assert len(os.listdir("/proc/self/fd")) <= descriptors
    assert count > 100
