"""Measures the networks: how much faster than the straightforward ones, how faithful, in how much memory.

    .venv/bin/python scripts/benchmark_networks.py                              # every case, on two threads
    .venv/bin/python scripts/benchmark_networks.py --only lite,lama --rounds 7 --json FILE
    .venv/bin/python scripts/benchmark_networks.py --engines torch,openvino,openvino:bf16
    .venv/bin/python scripts/benchmark_networks.py --device cuda --batches 1,2,4,8

On a CPU the engines of the ladder run in turns with the straightforward eager float32 network (row-wise grid-sampling
for BiRefNet), in one process and on one photo: ratios are of neighbours in time, so a busy machine slows both sides.
Times are those of whole engines, arrays in and arrays out. Then each engine starts twice in processes of its own, for
its memory and for what the compiled model on disk saves the second time.

With ``--device cuda`` (not run yet: no GPU was at hand) the networks run in batches, in float32, in half precision, and
without launch overhead: milliseconds per image, images per second, peak memory, and the floors by operations and by
bytes at the peaks of a large product and a large copy, measured in the same run.

Weights are those of the models folder; what is missing there is made up (``scripts/write_synthetic_weights.py``).
Without ``--models-dir`` everything is made up, in a folder that is deleted afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # works from any folder

from pipeline.models.zoo import VARIANTS
from scripts.benchmark import machine
from scripts.network_benchmarks.candidates import Candidate
from scripts.network_benchmarks.cases import CASES, Case
from scripts.network_benchmarks.cpu import HALF_GAIN, CpuOptions, measure_case
from scripts.network_benchmarks.gpu import BATCHES, GPU_CASES, GpuRow, Peaks, measure_gpu_case
from scripts.network_benchmarks.model_files import find_or_write
from scripts.network_benchmarks.quick import add_tiny_birefnet, quick_case
from scripts.network_benchmarks.reports import case_table, describe_floor, describe_peaks, gpu_table
from scripts.network_benchmarks.torch_candidates import load_network
from scripts.network_benchmarks.verdicts import judge

ENGINES = "torch,openvino,openvino:bf16"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    with tempfile.TemporaryDirectory() as folder:
        models_dir = options.models_dir or Path(folder)
        return _on_the_gpu(options, models_dir) if options.device == "cuda" else _on_the_cpu(options, models_dir)


def _on_the_cpu(options: argparse.Namespace, models_dir: Path) -> int:
    if options.quick:
        add_tiny_birefnet()
    cases = {name: quick_case(name) if options.quick else CASES[name] for name in options.only}
    settings = CpuOptions(
        models_dir,
        threads=options.threads,
        rounds=options.rounds,
        half_gain=options.half_gain,
        starts=options.starts,
        more=options.more,
        quick=options.quick,
    )
    facts = machine_facts()
    print("{cpu}, {cores} cores, {memory_gib} GiB, bfloat16 by {bfloat16}, load {load}".format(**facts))
    print("{threads} threads, torch {torch}, OpenVINO {openvino}".format(threads=options.threads, **facts))
    print(f"about {estimate_s(cases.values(), options.engines, settings) / 60:.0f} min, compiling not counted")
    torch.set_num_threads(options.threads)
    side, megabytes = (128, 4) if options.quick else (2048, 128)
    peaks = Peaks.measure(torch.device("cpu"), [torch.float32], side=side, megabytes=megabytes)
    print(describe_peaks(peaks))
    told: list[dict[str, Any]] = []
    missed = 0
    for name, case in cases.items():
        with tqdm(desc=name, unit="step", total=steps(case, options.engines, settings), disable=None) as bar:
            report = measure_case(name, case, options.engines, settings, partial(_advance, bar))
        verdicts = judge(name, report.results)
        work = None if options.quick else GPU_CASES[name].work(1)
        missed += sum(verdict.is_met is False for verdict in verdicts)
        print("", case_table(report), *([describe_floor(work, peaks)] if work else []), *verdicts, sep="\n")
        told.append(
            {**asdict(report), "work": work and asdict(work), "verdicts": [asdict(verdict) for verdict in verdicts]}
        )
        if options.json:
            _write(options.json, {"machine": facts, "threads": options.threads, "cases": told})
    return int(options.strict and missed > 0)


def _on_the_gpu(options: argparse.Namespace, models_dir: Path) -> int:
    if not torch.cuda.is_available():
        print(f"benchmark_networks: PyTorch {torch.__version__} sees no GPU", file=sys.stderr)
        return 1
    device = torch.device("cuda")
    peaks = Peaks.measure(device, [torch.float32, torch.float16, torch.bfloat16], side=8192, megabytes=1024)
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}; {describe_peaks(peaks)}")
    rows: list[GpuRow] = []
    for name in options.only:
        case = GPU_CASES[name]
        network = load_network(find_or_write(VARIANTS[case.variant], models_dir))
        measured = measure_gpu_case(name, case, network, device, peaks, batches=options.batches)
        for row in tqdm(measured, desc=name, unit="row", total=3 * len(options.batches), disable=None):
            rows.append(row)
        print(gpu_table([row for row in rows if row.case == name]), end="\n\n")
        if options.json:
            _write(options.json, {"device": torch.cuda.get_device_name(device), "rows": list(map(asdict, rows))})
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=_names, default=list(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--engines", type=_engines, default=_engines(ENGINES), help=f"{ENGINES} by default")
    parser.add_argument("--models-dir", type=Path, help="folder of weights; made-up ones if left out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batches", type=_numbers, default=list(BATCHES), help="images at once on a GPU")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of every engine")
    parser.add_argument("--rounds", type=int, help="how often each engine runs; by default it depends on the case")
    parser.add_argument("--starts", type=int, default=2, help="processes that start each engine; 0 for none")
    parser.add_argument("--more", type=int, default=2, help="images in each of those processes after the first")
    parser.add_argument(
        "--half-gain",
        type=float,
        default=HALF_GAIN,
        help="what BiRefNet's made-up decoder weights are multiplied by where half precision is judged: at the "
        "goldens' gains of 1.5 they amplify rounding far more than trained ones do; by default 2/3, so gains of 1",
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks and windows, to try this program")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a target is missed")
    parser.add_argument("--json", type=Path, help="write everything to this file as well")
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; known are {', '.join(CASES)}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _engines(text: str) -> list[Candidate]:
    try:
        return [Candidate.parse(name) for name in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def machine_facts() -> dict[str, Any]:
    """What the numbers are measured on, and how busy it is."""
    flags = Path("/proc/cpuinfo").read_text().split()
    bfloat16 = [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags]
    return {
        **machine(),
        "openvino": _version("openvino"),
        "bfloat16": ", ".join(bfloat16) or "nothing",
        "load": round(os.getloadavg()[0], 1),
    }


def estimate_s(cases: Iterable[Case], candidates: Sequence[Candidate], options: CpuOptions) -> float:
    """Roughly how long it takes, in seconds; an engine is taken to need half of the straightforward network's time."""
    total = 0.0
    for case in cases:
        runs = (options.rounds or case.rounds) + 1 + options.starts * (1 + options.more)
        total += case.baseline_s * runs * (1 + len(candidates) / 2) + 4 * options.starts * (1 + len(candidates))
    return total


def steps(case: Case, candidates: Sequence[Candidate], options: CpuOptions) -> int:
    """What ``measure_case`` tells of, if every engine runs."""
    engines = 1 + len(candidates)
    return 1 + engines * (2 + (options.rounds or case.rounds))


def _advance(bar: Any, what: str) -> None:
    bar.set_postfix_str(what)
    bar.update()


def _write(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
