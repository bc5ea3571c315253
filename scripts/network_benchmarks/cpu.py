"""One case on the CPU: every engine against the straightforward network, in turns, in one process."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ModelNotLoaded
from pipeline.models.ladder import EngineOptions
from pipeline.models.zoo import VARIANTS
from scripts.network_benchmarks.candidates import BASELINE, Candidate, load
from scripts.network_benchmarks.cases import Case, Figure, MattingCase
from scripts.network_benchmarks.model_files import find_or_write, link_into, lower_gains
from scripts.network_benchmarks.ratios import interleave, speedup
from scripts.network_benchmarks.starts import StartRequest, measure_start
from scripts.network_benchmarks.verdicts import Result

HALF_GAIN: Final = 2 / 3
"""Makes the gains of 1.5 in BiRefNet's made-up decoder weights 1, which all its other layers have."""


@dataclass(frozen=True)
class CpuOptions:
    """How to measure.

    Attributes:
        models_dir: Folder of weights; what is missing in it is written, with made-up values.
        threads: CPU threads of every engine.
        rounds: How often each engine runs; None is the case's own number.
        half_gain: BiRefNet in half precision is judged with its decoder's made-up weights times this.
        starts: How many processes start each engine; 0 leaves memory and starts out.
        more: Answers in each of those processes after the first.
        quick: Whether cases are small.
    """

    models_dir: Path
    threads: int = 2
    rounds: int | None = None
    half_gain: float = HALF_GAIN
    starts: int = 2
    more: int = 2
    quick: bool = False


@dataclass
class CaseReport:
    """What one case gave; the straightforward network is the first of the results."""

    name: str
    model: str
    rounds: int
    results: list[Result] = field(default_factory=list)


def measure_case(
    name: str, case: Case, candidates: Sequence[Candidate], options: CpuOptions, step: Callable[[str], object]
) -> CaseReport:
    """Speed, faithfulness, starts and memory of every candidate; ``step`` is told what was done.

    Engines work in folders of their own beside the weights, so that none finds what was compiled before: the first
    start compiles, all that follows does not. Half precision of a synthetic BiRefNet has weights of lower gains, and is
    compared with the straightforward network on the same ones.
    """
    weights = find_or_write(VARIANTS[case.variant], options.models_dir)
    step("weights")
    report = CaseReport(name, weights.model_version, options.rounds or case.rounds)
    report.results = [Result(BASELINE), *(Result(candidate) for candidate in candidates)]
    with tempfile.TemporaryDirectory(dir=options.models_dir) as folder:
        exact = half = _Place(case, Path(folder) / "exact", options)
        link_into(weights, exact.folder)
        is_judged_apart = isinstance(case, MattingCase) and weights.origin == "synthetic"
        if is_judged_apart and any(candidate.is_half for candidate in candidates):
            half = _Place(case, Path(folder) / "half", options, options.half_gain)
            lower_gains(weights, options.half_gain, half.folder)
        places = [half if result.candidate.is_half else exact for result in report.results]
        for result, place in zip(report.results, places, strict=True):
            place.measure_starts(name, result)
            step(f"starts of {result.candidate}")
        _measure_speed(report, places, step)
    return report


class _Place:
    """A folder of weights, and what the straightforward network answers with them.

    Args:
        case: What is asked.
        folder: It is made.
        options: How to measure; the folder of weights there does not count.
        gain: What the synthetic weights were multiplied by, or None.
    """

    def __init__(self, case: Case, folder: Path, options: CpuOptions, gain: float | None = None) -> None:
        self.case, self.folder, self._options, self._gain = case, folder, options, gain
        self._expected: Any = None
        folder.mkdir(parents=True)

    def load(self, candidate: Candidate) -> Any:
        """The engine. Raises ``ModelNotLoaded``."""
        options = EngineOptions(threads=self._options.threads, models_dir=self.folder, allow_unpinned=True)
        return load(self.case.variant, candidate, options)

    def figures(self, candidate: Candidate, engine: Any) -> list[Figure]:
        """How far the engine is from the straightforward network with the same weights; none for that one itself."""
        answer = self.case.answer(engine)  # and with it everything has run once
        if candidate == BASELINE:
            self._expected = answer
            return []
        if self._expected is None:
            self._expected = self.case.answer(self.load(BASELINE))
            gc.collect()
        found = self.case.figures(self._expected, answer, is_float32=not candidate.is_half)
        if self._gain is None:
            return found
        spread = Figure("where alpha's std is", float(self._expected.std()))
        return [*(replace(figure, name=f"{figure.name} at gains x{self._gain:.2g}") for figure in found), spread]

    def measure_starts(self, name: str, result: Result) -> None:
        request = StartRequest(
            case=name,
            engine=result.candidate.engine,
            precision=result.candidate.precision,
            models_dir=str(self.folder),
            threads=self._options.threads,
            more=self._options.more,
            quick=self._options.quick,
        )
        try:
            result.starts = [measure_start(request) for _ in range(self._options.starts)]
        except ModelNotLoaded as refusal:
            result.refusal = refusal.detail


def _measure_speed(report: CaseReport, places: Sequence[_Place], step: Callable[[str], object]) -> None:
    calls: dict[str, Callable[[], object]] = {}
    for result, place in zip(report.results, places, strict=True):
        if result.refusal is not None:
            continue
        try:
            engine = place.load(result.candidate)
        except ModelNotLoaded as refusal:
            result.refusal = refusal.detail
            continue
        result.figures = place.figures(result.candidate, engine)
        calls[str(result.candidate)] = place.case.call(engine)
        step(f"{result.candidate} warm")
    seconds = interleave(calls, report.rounds, tick=lambda: step("round"))
    for result in report.results:
        result.seconds = seconds.get(str(result.candidate), [])
        if result.seconds:
            result.speedup = speedup(seconds[str(BASELINE)], result.seconds)
    calls.clear()
    gc.collect()  # the networks of this case, before those of the next
