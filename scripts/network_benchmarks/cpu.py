"""One case on the CPU: every engine against the straightforward network, in turns, in one process."""

from __future__ import annotations

import dataclasses
import gc
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipeline.errors import ModelNotLoaded
from pipeline.models.ladder import EngineOptions
from pipeline.models.weights import VerifiedWeights
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

    @property
    def engine_options(self) -> EngineOptions:
        return EngineOptions(threads=self.threads, models_dir=self.models_dir, allow_unpinned=True)


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

    Engines work in a folder of their own beside the weights, so that none finds what was compiled before: the first
    start compiles, all that follows does not.
    """
    weights = find_or_write(VARIANTS[case.variant], options.models_dir)
    step("weights")
    report = CaseReport(name, weights.model_version, options.rounds or case.rounds)
    report.results = [Result(BASELINE), *(Result(candidate) for candidate in candidates)]
    with tempfile.TemporaryDirectory(dir=options.models_dir) as folder:
        link_into(weights, Path(folder))
        there = dataclasses.replace(options, models_dir=Path(folder))
        for result in report.results:
            _measure_starts(name, result, there)
            step(f"starts of {result.candidate}")
        _measure_speed(case, report, there, step)
        for result in report.results:
            if result.refusal is None and result.candidate.precision != "float32":
                if judged := _at_lower_gains(case, result.candidate, weights, there):
                    result.figures = [dataclasses.replace(figure, limit=None) for figure in result.figures] + judged
                step(f"{result.candidate} at lower gains")
    return report


def _measure_speed(case: Case, report: CaseReport, options: CpuOptions, step: Callable[[str], object]) -> None:
    calls: dict[str, Callable[[], object]] = {}
    expected: Any = None
    for result in report.results:
        if result.refusal is not None:
            continue
        try:
            engine = load(case.variant, result.candidate, options.engine_options)
        except ModelNotLoaded as refusal:
            result.refusal = refusal.detail
            continue
        finally:
            step(f"{result.candidate} loaded")
        answer = case.answer(engine)  # and with it everything has run once
        if result.candidate == BASELINE:
            expected = answer
        else:
            is_float32 = result.candidate.precision == "float32"
            result.figures = case.figures(expected, answer, is_float32=is_float32)
        calls[str(result.candidate)] = case.call(engine)
        step(f"{result.candidate} warm")
    seconds = interleave(calls, report.rounds, tick=lambda: step("round"))
    baseline = seconds[str(BASELINE)]
    for result in report.results:
        result.seconds = seconds.get(str(result.candidate), [])
        if result.seconds:
            result.speedup = speedup(baseline, result.seconds)
    calls.clear()
    gc.collect()  # the networks of this case, before those of the next


def _at_lower_gains(case: Case, candidate: Candidate, weights: VerifiedWeights, options: CpuOptions) -> list[Figure]:
    """The figures of ``candidate`` with synthetic BiRefNet weights that amplify rounding less; none for others."""
    if not isinstance(case, MattingCase) or weights.origin != "synthetic":
        return []
    with tempfile.TemporaryDirectory(dir=options.models_dir) as folder:
        lower_gains(weights, options.half_gain, Path(folder))
        there = EngineOptions(threads=options.threads, models_dir=Path(folder), allow_unpinned=True)
        answers = [case.answer(load(case.variant, one, there)) for one in (BASELINE, candidate)]
    gc.collect()
    spread = Figure("where alpha's std is", float(answers[0].std()))
    judged = case.figures(*answers, is_float32=False)
    named = [dataclasses.replace(figure, name=f"{figure.name} at gains x{options.half_gain:.2g}") for figure in judged]
    return [*named, spread]


def _measure_starts(name: str, result: Result, options: CpuOptions) -> None:
    request = StartRequest(
        case=name,
        engine=result.candidate.engine,
        precision=result.candidate.precision,
        models_dir=str(options.models_dir),
        threads=options.threads,
        more=options.more,
        quick=options.quick,
    )
    try:
        result.starts = [measure_start(request) for _ in range(options.starts)]
    except ModelNotLoaded as refusal:
        result.refusal = refusal.detail
