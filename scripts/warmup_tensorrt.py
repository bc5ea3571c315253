"""Builds TensorRT engines for this machine's GPU, verifies them against PyTorch, and prints how fast they are.

    .venv/bin/python scripts/warmup_tensorrt.py                  # general, mobile-sam, lama
    .venv/bin/python scripts/warmup_tensorrt.py lite --rebuild   # one; also if it is there already
    .venv/bin/python scripts/warmup_tensorrt.py --check          # small networks only: does all of it work here?
    .venv/bin/python scripts/warmup_tensorrt.py --dry-run        # without a GPU: graphs, operators, ONNX Runtime

Engines lie in ``tensorrt/`` beside the weights, each named by the GPU, TensorRT's version, precision, batches and the
weights' hash, with a record of its errors and latencies. The service takes an engine only if that record says that it
was verified. Building takes minutes for each graph.

Exits 1 if something could not be built or verified, 2 without a GPU or without the packages.

Not run where it was written, but for ``--dry-run`` and its refusals: there was no NVIDIA GPU.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # works from any folder

from pipeline.config import Settings  # noqa: E402
from pipeline.errors import ModelNotLoaded  # noqa: E402
from pipeline.models.birefnet.network import BiRefNet  # noqa: E402
from pipeline.models.birefnet.shape import TINY  # noqa: E402
from pipeline.models.export import specs  # noqa: E402
from pipeline.models.export.modules import (  # noqa: E402
    example_inputs,
    graph_module,
    kind_of,
    load_network,
    output_names,
    run_module,
)
from pipeline.models.export.onnx_file import export_onnx  # noqa: E402
from pipeline.models.export.operators import objections  # noqa: E402
from pipeline.models.export.specs import GraphSpec, graphs_of  # noqa: E402
from pipeline.models.lama.network import LamaGenerator  # noqa: E402
from pipeline.models.tensorrt.build import build_engine  # noqa: E402
from pipeline.models.tensorrt.cache import (  # noqa: E402
    EngineKey,
    EngineRecord,
    Latency,
    engines_folder,
    find_engine,
    key_of,
    read_record,
    store_engine,
)
from pipeline.models.tensorrt.platform import Platform, load_tensorrt, missing_names, this_platform  # noqa: E402
from pipeline.models.tensorrt.runner import Runner, Scratch, TensorRtRunner  # noqa: E402
from pipeline.models.tensorrt.verification import Verdict, judge  # noqa: E402
from pipeline.models.weights import find_weights  # noqa: E402
from pipeline.models.zoo import VARIANTS, default_names  # noqa: E402
from scripts import verify_onnx  # noqa: E402

PHOTO = ROOT / "tests" / "data" / "astronaut.jpg"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--models-dir", type=Path, help="folder of weights; MODELS_DIR by default")
    parser.add_argument("--allow-unpinned", action="store_true", help="take synthetic and custom weights, too")
    parser.add_argument("--rebuild", action="store_true", help="build also what is there")
    parser.add_argument("--runs", type=int, default=50, help="timed runs for each batch (default: 50)")
    parser.add_argument("--check", action="store_true", help="try everything on small networks, and keep nothing")
    parser.add_argument("--dry-run", action="store_true", help="export and check the graphs only; needs no GPU")
    options = parser.parse_args(arguments)
    names: list[str] = options.names or list(default_names(has_gpu=True))
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    models_dir: Path = options.models_dir or ROOT / Settings(_env_file=ROOT / ".env").models_dir
    if options.dry_run:
        return verify_onnx.main([*names, "--models-dir", str(models_dir), "--engine-precision"])
    try:
        platform = this_platform()
    except ModelNotLoaded as reason:
        print(f"No engine can be built: {reason.detail} (--dry-run needs no GPU.)", file=sys.stderr)
        return 2
    print(f"{platform.gpu}, compute capability {platform.compute_capability}, TensorRT {platform.tensorrt}")
    if missing := missing_names(load_tensorrt()):
        print(f"This TensorRT lacks {', '.join(missing)}; releases 10 and 11 have them.", file=sys.stderr)
        return 2
    if options.check:
        return check(platform)

    records: list[EngineRecord] = []
    failures: list[str] = []
    for name in names:
        try:
            weights = find_weights(models_dir, VARIANTS[name], allow_unpinned=options.allow_unpinned)
        except ModelNotLoaded as reason:
            failures.append(reason.detail)
            continue
        load = functools.partial(load_network, weights)
        for spec in tqdm(graphs_of(VARIANTS[name]), desc=name, unit="engine", disable=None):
            key = key_of(weights, spec, platform)
            try:
                records.append(warm_up(spec, load, key, engines_folder(weights), options.runs, rebuild=options.rebuild))
            except ModelNotLoaded as reason:
                failures.append(reason.detail)
    print(latency_table(records))
    print(error_table(records))
    print(*failures, sep="\n", file=sys.stderr)
    return 0 if records and not failures and all(record.verified for record in records) else 1


def warm_up(
    spec: GraphSpec, load: Callable[[], nn.Module], key: EngineKey, folder: Path, runs: int, *, rebuild: bool = False
) -> EngineRecord:
    """The record of the engine for ``key``, which is built, verified, timed and stored if it is not there.

    Raises:
        ModelNotLoaded: TensorRT would not build it or does not take it.
    """
    if not rebuild:
        try:
            record = read_record(find_engine(folder, key))
            if record is not None:
                return record
        except ModelNotLoaded as reason:
            tqdm.write(reason.detail)
    model = export_onnx(
        graph_module(spec, load(), precision=spec.precision), example_inputs(spec, 2), output_names(spec)
    )
    if found := objections(model):
        raise ModelNotLoaded(f"'{spec.name}' has what TensorRT's parser does not take: {found[0]}")
    gpu = "".join(letter if letter.isalnum() else "_" for letter in key.platform.gpu)
    plan = build_engine(model.SerializeToString(), spec, folder / f"timing-{gpu}-{key.platform.tensorrt}.cache")
    del model
    free_before, _ = torch.cuda.mem_get_info()
    runner = TensorRtRunner(plan, spec, Scratch())
    latencies = [
        measure(runner, spec, batch, runs, lambda: (free_before - torch.cuda.mem_get_info()[0]) / 2**20)
        for batch in spec.batches
    ]
    verdict = verify(runner, spec, load)
    sha256 = hashlib.sha256(plan).hexdigest()
    record = EngineRecord(key, sha256, verdict.passed, verdict.errors, verdict.tolerances, latencies)
    store_engine(folder, plan, record)
    return record


def verify(runner: Runner, spec: GraphSpec, load: Callable[[], nn.Module], *, device: str = "cuda") -> Verdict:
    """How far the engine is from PyTorch in float32 on the same device, over all its batches."""
    batches = [with_photo(example_inputs(spec, batch, seed=batch)) for batch in spec.batches]
    ours = [runner.run(inputs) for inputs in batches]
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        module = graph_module(spec, load()).to(device)
        expected = [run_module(module, spec, inputs) for inputs in batches]
        in_half = None
        if kind_of(spec) == "matting":
            module = graph_module(spec, load(), precision=spec.precision).to(device)
            in_half = [run_module(module, spec, inputs) for inputs in batches]
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    return judge(kind_of(spec), ours, expected, in_half)


def with_photo(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The same inputs with a photo for the first picture."""
    if "images" not in inputs or not PHOTO.is_file():
        return inputs
    images = inputs["images"].copy()
    with PIL.Image.open(PHOTO) as photo:
        images[0] = np.asarray(photo.convert("RGB").resize((images.shape[2], images.shape[1])))
    return inputs | {"images": images}


def measure(runner: Runner, spec: GraphSpec, batch: int, runs: int, memory_mib: Callable[[], float]) -> Latency:
    """Percentiles over ``runs`` runs from array to array, after five that do not count; memory is asked for then."""
    inputs = example_inputs(spec, batch)
    times_ms = []
    for run in range(runs + 5):
        started = time.perf_counter()
        runner.run(inputs)
        if run >= 5:
            times_ms.append(1000 * (time.perf_counter() - started))
    p50, p95 = (float(value) for value in np.percentile(times_ms, (50, 95)))
    return Latency(batch, p50, p95, 1000 * batch / p50, memory_mib())


def latency_table(records: Iterable[EngineRecord]) -> str:
    """A line for each engine and batch."""
    lines = [f"{'model':<28} {'graph':<20} {'batch':>5} {'p50 ms':>8} {'p95 ms':>8} {'images/s':>9} {'MiB':>7}"]
    for record in records:
        for at in record.latencies:
            lines.append(
                f"{record.key.model_version:<28} {record.key.graph:<20} {at.batch:>5} {at.p50_ms:>8.2f} "
                f"{at.p95_ms:>8.2f} {at.images_per_s:>9.1f} {at.memory_mib:>7.0f}"
            )
    return "\n".join(lines)


def error_table(records: Iterable[EngineRecord]) -> str:
    """A line for each check of each engine."""
    lines = [f"{'model':<28} {'graph':<20} {'compared':<32} {'error':>9} {'tolerance':>9}"]
    for record in records:
        for what, error in record.errors.items():
            tolerance = record.tolerances[what]
            verdict = "" if error <= tolerance else "  FAILED"
            engine = f"{record.key.model_version:<28} {record.key.graph:<20}"
            lines.append(f"{engine} {what:<32} {error:>9.2g} {tolerance:>9.2g}{verdict}")
    return "\n".join(lines)


def check(platform: Platform) -> int:
    """Builds, runs, verifies, stores and finds engines of two small networks; 0 if all of it went well."""
    from tests.golden.goldens import give_synthetic_weights

    def load(make: Callable[[], nn.Module]) -> nn.Module:
        network = make()
        give_synthetic_weights(network)
        return network.requires_grad_(False)

    networks: Mapping[GraphSpec, Callable[[], nn.Module]] = {
        specs.matting((128, 128)): lambda: BiRefNet(TINY),
        specs.inpainting(64): lambda: LamaGenerator(width=8, blocks=2),
    }
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for spec, make in networks.items():
            key = EngineKey("check", "0" * 64, spec.name, spec.precision, spec.batches, platform)
            try:
                records.append(warm_up(spec, functools.partial(load, make), key, Path(folder), runs=20))
                find_engine(Path(folder), key)
            except ModelNotLoaded as reason:
                print(reason.detail, file=sys.stderr)
                return 1
    print(latency_table(records))
    print(error_table(records))
    print("All is well: engines are built, run and verified here.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
