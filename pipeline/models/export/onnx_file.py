"""A graph as an ONNX file, of operators that other runtimes have.

One dimension is free, the batch. Nothing in the file asks for a shape at run time: a reshape names every side but one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipeline.models.files import part_of, publish

if TYPE_CHECKING:
    import onnx
    import onnx_ir

OPSET: Final = 20
"""``DeformConv`` came with 19, ``Gelu`` with 20. Attention, an operator since 23, is spelled out: that is what runs."""

_BLOCKED: Final = -1e4
"""Added to a score where a mask says no: the weight is 0 then, in half precision too."""


def export_onnx(
    graph: nn.Module,
    inputs: Mapping[str, NDArray[Any]],
    outputs: Sequence[str],
    *,
    largest_batch: int = 8,
) -> onnx.ModelProto:
    """The graph in ONNX, its first axis free from 1 to ``largest_batch``.

    Args:
        graph: In ``eval`` mode, on the CPU, and used once, so that what it keeps of its weights is there: a tensor made
            while it is traced would be none.
        inputs: An example of each input of ``forward``, in order, with a batch of at least 2: one of 1 stays 1.
        outputs: A name for each output.

    Raises:
        RuntimeError: PyTorch could not export it.
    """
    arguments = tuple(torch.from_numpy(array) for array in inputs.values())
    batch = torch.export.Dim("batch", min=1, max=largest_batch)
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            graph,
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in arguments),
            custom_translation_table=_translations(),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    _name_sides(program.model)
    model: onnx.ModelProto = program.model_proto
    return model


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Writes the model whole, weights inside; ONNX files hold up to 2 GiB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part_of(path).write_bytes(model.SerializeToString())
    publish(part_of(path), path)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators that are written otherwise than the exporter would."""
    from onnxscript import opset20

    op: Any = opset20

    def deformable_convolution(x: Any, offset: Any, modulation: Any, weight: Any) -> Any:
        # In float32, as ours samples in it: half precision cannot tell the places of a large map apart.
        kernel = weight.shape[-1]
        x, offset, modulation = (op.Cast(tensor, to=1) for tensor in (x, offset, modulation))
        y = op.DeformConv(
            x,
            op.Cast(weight, to=1),
            offset,
            None,
            modulation,
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
        )
        return op.CastLike(y, weight)

    def attention(
        q: Any,
        k: Any,
        v: Any,
        attn_mask: Any = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Any:
        # Products, a sum and a softmax: what compilers look for to fuse. The exporter's own form asks for shapes.
        if dropout_p or is_causal or enable_gqa:
            raise NotImplementedError("No network here needs this kind of attention.")
        factor = op.CastLike(op.Constant(value_float=scale or 1 / math.sqrt(q.shape[-1])), q)
        scores = op.MatMul(op.Mul(q, factor), op.Transpose(k, perm=[0, 1, 3, 2]))
        if attn_mask is not None:
            if attn_mask.dtype == 9:  # bool
                zero, blocked = (op.CastLike(op.Constant(value_float=value), q) for value in (0.0, _BLOCKED))
                attn_mask = op.Where(attn_mask, zero, blocked)
            scores = op.Add(scores, attn_mask)
        return op.MatMul(op.Softmax(scores, axis=-1), v)

    return {
        torch.ops.clearcut.deformable_convolution.default: deformable_convolution,
        torch.ops.aten.scaled_dot_product_attention.default: attention,
    }


def _name_sides(model: onnx_ir.Model) -> None:
    """Gives every reshape whose result has one free side a constant shape, with -1 for that side."""
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for number, node in enumerate(model.graph):
        shape = node.outputs[0].shape if node.op_type == "Reshape" else None
        if shape is None or node.inputs[1] is None or node.inputs[1].const_value is not None:
            continue
        sides = [side if isinstance(side, int) else -1 for side in shape]
        if sides.count(-1) != 1 or 0 in sides:
            continue
        name = f"sides_{number}"
        tensor = ir.tensor(np.array(sides, np.int64), name=name)
        value = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(sides)]))
        value.const_value = tensor
        model.graph.register_initializer(value)
        node.replace_input_with(1, value)
    RemoveUnusedNodesPass()(model)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of packages that are not there and of constants it leaves alone."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
