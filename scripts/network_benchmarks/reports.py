"""What ``benchmark_networks.py`` prints."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import torch

from scripts.network_benchmarks.cpu import CaseReport
from scripts.network_benchmarks.gpu import GpuRow, Peaks
from scripts.network_benchmarks.ratios import table
from scripts.network_benchmarks.verdicts import Result
from scripts.network_benchmarks.work import Work


def case_table(report: CaseReport) -> str:
    """A table of the case's engines, and why some did not run."""
    speed = ["best s", "median s", "faster, by rounds", "by bests"]
    heading = ["engine", *speed, "first start s", "then s", "MiB", "peak", "grown"]
    rows = [_row(result) for result in report.results if result.refusal is None]
    lines = [f"{report.name}: {report.model}, {report.rounds} rounds", table(heading, rows)]
    for result in report.results:
        if result.figures:
            lines.append(f"{result.candidate}: " + ", ".join(map(str, result.figures)))
        if result.refusal is not None:
            lines.append(f"{result.candidate}: not run: {result.refusal}")
    return "\n".join(lines)


def _row(result: Result) -> list[str]:
    speed = ["", ""] if result.speedup is None else [str(result.speedup), f"{result.speedup.of_bests:.2f}x"]
    starts = [""] * 5
    if result.starts:
        first, last = result.starts[0], result.starts[-1]
        held = (last.resident_mib, last.peak_mib, last.grown_mib)
        then = f"{last.ready_s:.1f}" if len(result.starts) > 1 else ""
        starts = [f"{first.ready_s:.1f}", then, *(f"{mib:.0f}" for mib in held)]
    seconds = [f"{min(result.seconds):.3f}", f"{statistics.median(result.seconds):.3f}"]
    return [str(result.candidate), *seconds, *speed, *starts]


def gpu_table(rows: Sequence[GpuRow]) -> str:
    """One line for each row: times and floors are milliseconds per image."""
    heading = ["network", "precision", "runner", "batch", "ms", "images/s", "peak MiB", "by FLOP", "by bytes", "error"]
    lines = []
    for row in rows:
        start = [row.case, row.precision, row.runner, str(row.batch)]
        if row.refusal is not None:
            lines.append([*start, row.refusal, *[""] * 5])
            continue
        speed = [f"{row.ms_per_image:.2f}", f"{1000 / row.ms_per_image:.1f}", f"{row.peak_mib:.0f}"]
        lines.append([*start, *speed, f"{row.floor_flops_ms:.2f}", f"{row.floor_bytes_ms:.2f}", f"{row.error:.1e}"])
    return table(heading, lines)


def describe_peaks(peaks: Peaks) -> str:
    """The device's measured peaks, in a line."""
    rates = [f"{str(d).removeprefix('torch.')} {rate / 1e12:.3g}" for d, rate in peaks.flops_per_s.items()]
    return f"products at {', '.join(rates)} TFLOP/s, copies at {peaks.bytes_per_s / 1e9:.0f} GB/s"


def describe_floor(work: Work, peaks: Peaks) -> str:
    """How fast one image could be at best in float32, by what must be computed and by what must be moved."""
    flops_s, bytes_s = work.floor_s(peaks.flops_per_s[torch.float32], peaks.bytes_per_s, value_bytes=4)
    return f"floor in float32: {flops_s:.2f} s by {work.flops / 1e9:.0f} GFLOP, {bytes_s:.2f} s by bytes"
