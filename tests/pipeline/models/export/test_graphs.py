"""The graphs' arrays are what their specs say, and the specs fit the rest of the product."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipeline.models.export import specs
from pipeline.models.export.comparison import FLOAT32_TOLERANCES
from pipeline.models.export.modules import example_inputs, graph_module, output_names, run_module
from pipeline.models.export.specs import GraphSpec, graphs_of
from pipeline.models.zoo import VARIANTS
from pipeline.operations.remove_object import WINDOW_SIDES_PX
from tests.pipeline.models.export import small


@pytest.mark.parametrize("spec", small.NETWORKS, ids=lambda spec: spec.name)
def test_inputs_and_outputs_have_the_shapes_and_types_of_the_spec(spec: GraphSpec) -> None:
    inputs = example_inputs(spec, 2)
    for port in spec.inputs:
        assert (inputs[port.name].shape, inputs[port.name].dtype.name) == ((2, *port.shape), port.dtype)
    found = run_module(graph_module(spec, small.NETWORKS[spec](), floats=True), spec, inputs)
    assert list(found) == output_names(spec, floats=True)
    for port in spec.outputs:
        assert (found[port.name].shape, found[port.name].dtype.name) == ((2, *port.shape), port.dtype)
    assert set(found) <= set(FLOAT32_TOLERANCES)


def test_items_of_a_batch_do_not_meet() -> None:
    for spec, make in small.NETWORKS.items():
        module = graph_module(spec, make())
        both = example_inputs(spec, 2)
        alone = run_module(module, spec, {name: array[1:] for name, array in both.items()})
        for name, array in run_module(module, spec, both).items():
            np.testing.assert_allclose(array[1:], alone[name], rtol=0, atol=1 if array.dtype == np.uint8 else 1e-4)


def test_what_lies_beyond_a_framed_image_does_not_count() -> None:
    module = graph_module(small.EMBEDDING, small.mobile_sam())
    inputs = example_inputs(small.EMBEDDING, 1)
    inputs["framed_hw"] = np.array([[64, 40]], np.int32)
    before = run_module(module, small.EMBEDDING, inputs)["features"]
    inputs["images"][:, :, 40:] = 255
    assert np.array_equal(run_module(module, small.EMBEDDING, inputs)["features"], before)
    inputs["images"][:, :, 39] = 255
    assert not np.array_equal(run_module(module, small.EMBEDDING, inputs)["features"], before)


def test_every_variant_has_graphs_with_batches_that_rise_from_one() -> None:
    for variant in VARIANTS.values():
        for spec in graphs_of(variant):
            assert spec.batches[0] == 1
            assert list(spec.batches) == sorted(set(spec.batches))


def test_large_pictures_come_in_smaller_batches() -> None:
    assert specs.matting((1024, 1024)).batches == (1, 2, 4, 8)
    assert specs.matting((2048, 2048)).batches == (1, 2)
    assert specs.matting((2560, 1440)).batches == (1, 2)


def test_there_is_a_graph_for_each_window_that_is_asked_for() -> None:
    assert specs.WINDOW_SIDES_PX == WINDOW_SIDES_PX
    sides = [spec.inputs[0].shape[0] for spec in graphs_of(VARIANTS["lama"])]
    assert tuple(sides) == WINDOW_SIDES_PX


def test_specs_are_known_without_torch() -> None:
    code = "import sys; import pipeline.models.export.specs; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
