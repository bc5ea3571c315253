"""Exports the networks to ONNX, runs them on ONNX Runtime beside PyTorch, and looks for operators TensorRT lacks.

    python scripts/verify_onnx.py                          # lite, mobile-sam and lama, every graph
    python scripts/verify_onnx.py general                  # another variant; may be several
    python scripts/verify_onnx.py lama --graph inpainting-512
    python scripts/verify_onnx.py lite --save DIR          # keeps the ONNX files

Weights are those in the models folder; where there are none, made-up ones, which compute the same way. Everything is in
float32 on the CPU; engines take the graphs in the precision ``pipeline/models/export/specs.py`` names, and with
``--engine-precision`` those are exported and looked through as well. Exits 1 if an error is larger than allowed or an
operator is not on the list.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # works from any folder

from pipeline.config import Settings  # noqa: E402
from pipeline.errors import ModelNotLoaded  # noqa: E402
from pipeline.models.export.comparison import difference, float32_tolerance  # noqa: E402
from pipeline.models.export.modules import (  # noqa: E402
    example_inputs,
    graph_module,
    load_network,
    output_names,
    run_module,
)
from pipeline.models.export.onnx_file import export_onnx, save_onnx  # noqa: E402
from pipeline.models.export.onnx_runner import OnnxRunner  # noqa: E402
from pipeline.models.export.operators import objections  # noqa: E402
from pipeline.models.export.specs import GraphSpec, graphs_of  # noqa: E402
from pipeline.models.torch_engines import network_of  # noqa: E402
from pipeline.models.weights import find_weights  # noqa: E402
from pipeline.models.zoo import VARIANTS, Variant, default_names  # noqa: E402


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        graph: Variant and graph.
        what: The output, or what was looked for.
        error: The largest difference over all batches, or how many operators are not on the list.
        tolerance: The largest allowed.
        scale: Root mean square of what was expected.
    """

    graph: str
    what: str
    error: float
    tolerance: float
    scale: float = 0.0

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance  # not so for NaN


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--graph", action="append", help="only graphs of this name; may be repeated")
    parser.add_argument("--models-dir", type=Path, help="folder of weights; MODELS_DIR by default")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2], help="sizes to compare (default: 1 2)")
    parser.add_argument("--engine-precision", action="store_true", help="look through the engines' graphs, too")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep the ONNX files in this folder")
    options = parser.parse_args(arguments)
    names: list[str] = options.names or list(default_names(has_gpu=False))
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    models_dir: Path = options.models_dir or ROOT / Settings(_env_file=ROOT / ".env").models_dir
    jobs = [(VARIANTS[name], spec) for name in names for spec in graphs_of(VARIANTS[name])]
    jobs = [(variant, spec) for variant, spec in jobs if not options.graph or spec.name in options.graph]
    rows = []
    for variant, spec in (bar := tqdm(jobs, unit="graph", disable=None)):
        bar.set_description(f"{variant.name} {spec.name}")
        rows += verify(
            variant,
            spec,
            partial(network_for, variant, models_dir),
            batches=options.batches,
            engine_precision=options.engine_precision,
            save=options.save,
        )
    print(report(rows))
    return 0 if rows and all(row.passed for row in rows) else 1


def verify(
    variant: Variant,
    spec: GraphSpec,
    load: Callable[[], nn.Module],
    *,
    batches: Iterable[int] = (1, 2),
    engine_precision: bool = False,
    save: Path | None = None,
) -> list[Row]:
    """A row for each output of a graph, and one for its operators.

    Args:
        variant: Whose graph it is.
        spec: The graph.
        load: Makes its network, in float32, anew at each call.
        batches: Sizes to compare.
        engine_precision: Whether the graph that engines are built from is looked through as well.
        save: Where ONNX files are kept, if anywhere.
    """
    name = f"{variant.name} {spec.name}"
    started = time.perf_counter()
    module = graph_module(spec, load(), floats=True)
    outputs = output_names(spec, floats=True)
    model = export_onnx(module, example_inputs(spec, 2), outputs)
    rows = [_operators(name, "operators", objections(model))]
    took, count = time.perf_counter() - started, len(model.graph.node)
    tqdm.write(f"{name}: {count} nodes, {model.ByteSize() / 2**20:.0f} MiB, exported in {took:.0f} s")
    with tempfile.TemporaryDirectory() as temporary:
        path = (save or Path(temporary)) / f"{variant.model_version}-{spec.name}.onnx"
        save_onnx(model, path)
        del model  # large ones would not fit beside what follows
        runner = OnnxRunner(str(path))
    worst = dict.fromkeys(outputs, (0.0, 0.0))
    for batch in batches:
        inputs = example_inputs(spec, batch, seed=batch)
        ours, expected = runner.run(inputs), run_module(module, spec, inputs)
        for output in outputs:
            found = difference(ours[output], expected[output])
            worst[output] = tuple(np.maximum(worst[output], (found.largest, found.scale)).tolist())  # keeps NaN
    for output, (error, scale) in worst.items():
        rows.append(Row(name, output, error, float32_tolerance(spec.name, output), scale))
    if engine_precision and spec.precision != "tf32":  # those of the float32 graph are its own
        del runner, module
        half = export_onnx(
            graph_module(spec, load(), precision=spec.precision), example_inputs(spec, 2), output_names(spec)
        )
        rows.append(_operators(name, f"operators, {spec.precision}", objections(half)))
    return rows


def network_for(variant: Variant, models_dir: Path) -> nn.Module:
    """The variant's network with the weights in the folder, or with made-up ones if there are none."""
    try:
        return load_network(find_weights(models_dir, variant, allow_unpinned=True))
    except ModelNotLoaded as reason:
        if any((models_dir / file).exists() for file in (variant.file_name, variant.unpinned_file_name)):
            raise  # there are some, and they are wrong
        tqdm.write(f"{variant.name}: made-up weights: {reason.detail}")
    from tests.golden.goldens import give_synthetic_weights

    network = network_of(variant)
    give_synthetic_weights(network)
    return network.requires_grad_(False)


def report(rows: Iterable[Row]) -> str:
    """The rows as a table."""
    lines = [f"{'graph':<32} {'output':<24} {'error':>9} {'tolerance':>9} {'rms':>9}"]
    for row in rows:
        verdict = "" if row.passed else "  FAILED"
        lines.append(
            f"{row.graph:<32} {row.what:<24} {row.error:>9.2g} {row.tolerance:>9.2g} {row.scale:>9.3g}{verdict}"
        )
    return "\n".join(lines)


def _operators(name: str, what: str, found: Sequence[str]) -> Row:
    for objection in found:
        tqdm.write(f"{name}: {objection}")
    return Row(name, what, len(found), 0)


if __name__ == "__main__":
    sys.exit(main())
