"""Whether TensorRT's parser takes a graph, judged from the list its authors publish.

The list is docs/operators.md of onnx-tensorrt at TensorRT 10.15, opsets 9 to 24, without what it marks as not
supported; of its restrictions, those are checked that can meet the operators our graphs use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import onnx

OPSETS: Final = range(9, 25)

_FLOATS: Final = frozenset({"FLOAT", "FLOAT16", "BFLOAT16"})
_NUMBERS: Final = _FLOATS | {"INT32", "INT64"}
_ALL: Final = _NUMBERS | {"BOOL"}

_LISTS: Final = (
    (
        _FLOATS,
        "Acos Acosh Asin Asinh Atan Atanh Attention AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose "
        "Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool "
        "GroupNormalization HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization IsInf LRN LSTM "
        "LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool MeanVarianceNormalization "
        "PRelu ParametricSoftplus QuantizeLinear RMSNormalization RNN RandomNormal RandomNormalLike RandomUniform "
        "RandomUniformLike Reciprocal Resize RotaryEmbedding Round ScaledTanh Scan Selu Sigmoid Sin Sinh Softmax "
        "Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample",
    ),
    (
        frozenset({"FLOAT", "FLOAT16"}),
        "BlackmanWindow DeformConv GridSample HammingWindow HannWindow Mish NonMaxSuppression NonZero RoiAlign",
    ),
    (frozenset({"FLOAT"}), "STFT"),
    (
        _NUMBERS,
        "Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min "
        "Mod Mul Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum "
        "TensorScatter TopK",
    ),
    (
        _ALL,
        "Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop OneHot "
        "Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where",
    ),
    (_ALL | {"UINT8"}, "Cast CastLike"),
    (frozenset({"INT8"}), "DequantizeLinear"),
    (frozenset({"BOOL"}), "And Not Or Xor"),
)

TYPES: Final[Mapping[str, frozenset[str]]] = {name: types for types, names in _LISTS for name in names.split()}
"""The types each operator takes in its first data input, by ONNX's names."""

_SMALL: Final = 64
"""Values of a constant that may be a shape."""

_SECOND_IS_DATA: Final = frozenset({"Where"})

_RESIZES: Final[Mapping[str, set[object]]] = {
    "mode": {"nearest", "linear"},
    "coordinate_transformation_mode": {
        "half_pixel",
        "pytorch_half_pixel",
        "tf_half_pixel_for_nn",
        "asymmetric",
        "align_corners",
    },
    "keep_aspect_ratio_policy": {"stretch"},
    "antialias": {0},
}


def objections(model: onnx.ModelProto) -> list[str]:
    """What TensorRT's parser would not take, one sentence each; empty if nothing.

    Bytes are taken as inputs and outputs of the whole graph only, where a ``Cast`` reads or makes them.
    """
    import onnx

    found = [
        f"The opset is {entry.domain or 'ai.onnx'} {entry.version}."
        for entry in model.opset_import
        if entry.domain or entry.version not in OPSETS
    ]
    found += [f"There is a local function, {function.name}." for function in model.functions]
    inferred = onnx.shape_inference.infer_shapes(_without_weights(model))
    types = {
        value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)
        for values in (inferred.graph.input, inferred.graph.output, inferred.graph.value_info)
        for value in values
    }
    constants = {tensor.name for tensor in model.graph.initializer}
    types |= {tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.domain or node.op_type not in TYPES:
            found.append(f"{node.name}: there is no {node.domain}{'.' if node.domain else ''}{node.op_type}.")
            continue
        data = node.input[1 if node.op_type in _SECOND_IS_DATA else 0] if node.input else node.output[0]
        if types.get(data, "") not in TYPES[node.op_type]:
            found.append(f"{node.name}: {node.op_type} of {types.get(data, 'an unknown type')}.")
        found += [f"{node.name}: {node.op_type} {text}." for text in _restrictions(node, constants)]
    return found


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large constants as inputs: types follow from it as well, and no gigabyte is copied."""
    import onnx

    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL:
            light.graph.initializer.append(tensor)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def _restrictions(node: onnx.NodeProto, constants: set[str]) -> Iterator[str]:
    """What the list forbids for some ways to use an operator."""
    import onnx

    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Resize":
        for name, allowed in _RESIZES.items():
            value = attributes.get(name)
            value = value.decode() if isinstance(value, bytes) else value
            if value is not None and value not in allowed:
                yield f"has {name} {value}"
    if node.op_type == "DeformConv":
        pads = list(attributes.get("pads", []))
        if pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
            yield f"has uneven pads {pads}"
    if node.op_type == "LayerNormalization" and len([name for name in node.output if name]) > 1:
        yield "has more than one output"
    if node.op_type.startswith("Reduce") and len(node.input) > 1 and node.input[1] not in constants:
        yield "has axes that are no constant"
    if node.op_type == "ScatterND" and attributes.get("reduction", b"none") != b"none":
        yield "reduces"
    if node.op_type in ("MaxPool", "AveragePool", "LpPool") and set(attributes.get("dilations", [1])) != {1}:
        yield "is dilated"
