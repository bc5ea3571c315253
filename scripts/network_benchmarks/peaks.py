"""What a device reaches at best, measured: a large matrix product, and a large copy.

Measured in the same run rather than taken from a data sheet, the figures hold for this device as it is: its power
limit, its clock, its neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def best_s(call: Callable[[], object], device: torch.device, *, repeats: int) -> float:
    """The shortest time of ``call`` on ``device``, in seconds, after one run that does not count."""
    return min(times_s(call, device, repeats=repeats))


def times_s(call: Callable[[], object], device: torch.device, *, repeats: int) -> list[float]:
    """Seconds of each of ``repeats`` calls, after one that does not count; every call is waited for."""
    seconds: list[float] = []
    for _ in range(repeats + 1):
        _wait_for(device)
        start = time.perf_counter()
        call()
        _wait_for(device)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def peak_flops_per_s(device: torch.device, dtype: torch.dtype, *, side: int = 8192, repeats: int = 10) -> float:
    """Operations per second of a square matrix product."""
    a, b = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / best_s(lambda: torch.mm(a, b, out=out), device, repeats=repeats)


def peak_bytes_per_s(device: torch.device, *, megabytes: int = 1024, repeats: int = 10) -> float:
    """Bytes read and written per second by a copy within the device's memory."""
    source = torch.ones(megabytes * 2**20, device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return 2 * source.numel() / best_s(lambda: target.copy_(source), device, repeats=repeats)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
