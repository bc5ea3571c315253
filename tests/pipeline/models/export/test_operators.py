"""What TensorRT's parser does not take is found before a GPU is asked."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.models.export.operators import TYPES, objections


def model(
    *nodes: onnx.NodeProto,
    dtype: int = TensorProto.FLOAT,
    to: int | None = None,
    opset: int = 20,
) -> onnx.ModelProto:
    """A graph from x (1, 2, 4, 4) to y."""
    x = helper.make_tensor_value_info("x", dtype, (1, 2, 4, 4))
    y = helper.make_tensor_value_info("y", dtype if to is None else to, None)
    graph = helper.make_graph(list(nodes), "graph", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def test_a_plain_graph_is_taken() -> None:
    assert objections(model(helper.make_node("Relu", ["x"], ["y"], name="relu"))) == []


@pytest.mark.parametrize("name", ["DFT", "Col2Im", "QLinearConv", "AffineGrid", "DynamicQuantizeLinear"])
def test_operators_the_list_says_no_to_are_not_on_ours(name: str) -> None:
    assert name not in TYPES


@pytest.mark.parametrize(
    "name", ["DeformConv", "GridSample", "LayerNormalization", "Attention", "QuantizeLinear", "DequantizeLinear"]
)
def test_operators_the_list_says_yes_to_are_on_ours(name: str) -> None:
    assert name in TYPES


def test_an_operator_that_is_not_there_is_named_with_its_node() -> None:
    node = helper.make_node("Col2Im", ["x", "s", "k"], ["y"], name="fold")
    assert objections(model(node)) == ["fold: there is no Col2Im."]


def test_operators_of_other_domains_are_not_taken() -> None:
    other = model(helper.make_node("Gelu", ["x"], ["y"], name="gelu", domain="com.microsoft"))
    other.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "gelu: there is no com.microsoft.Gelu." in objections(other)


@pytest.mark.parametrize("opset", [8, 25])
def test_opsets_beyond_the_lists_are_told(opset: int) -> None:
    found = objections(model(helper.make_node("Relu", ["x"], ["y"], name="relu"), opset=opset))
    assert f"The opset is ai.onnx {opset}." in found


def test_bytes_may_be_cast_and_nothing_else() -> None:
    cast = helper.make_node("Cast", ["x"], ["y"], name="cast", to=TensorProto.FLOAT)
    assert objections(model(cast, dtype=TensorProto.UINT8, to=TensorProto.FLOAT)) == []
    turn = helper.make_node("Transpose", ["x"], ["y"], name="turn", perm=(0, 2, 3, 1))
    assert objections(model(turn, dtype=TensorProto.UINT8)) == ["turn: Transpose of UINT8."]


def test_double_precision_is_not_taken() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="relu")
    assert objections(model(node, dtype=TensorProto.DOUBLE)) == ["relu: Relu of DOUBLE."]


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, None),
        ({"mode": "linear", "antialias": 1}, "has antialias 1"),
        ({"mode": "cubic"}, "has mode cubic"),
        ({"coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop_and_resize"),
        ({"keep_aspect_ratio_policy": "not_larger"}, "not_larger"),
    ],
)
def test_only_some_ways_to_resize_are_taken(attributes: dict[str, object], told: str | None) -> None:
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="resize", **attributes)
    found = objections(model(node))
    assert found == [] if told is None else told in found[0]


@pytest.mark.parametrize(("pads", "taken"), [((1, 2, 1, 2), True), ((1, 1, 2, 2), False)])
def test_deformable_convolutions_are_padded_the_same_on_both_ends(pads: tuple[int, ...], taken: bool) -> None:
    node = helper.make_node("DeformConv", ["x", "w", "o"], ["y"], name="deform", pads=pads)
    assert (objections(model(node)) == []) == taken


def test_axes_of_a_reduction_are_constants() -> None:
    found = objections(model(helper.make_node("ReduceMean", ["x", "x"], ["y"], name="mean")))
    assert found == ["mean: ReduceMean has axes that are no constant."]
