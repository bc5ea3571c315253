"""The networks as ONNX: the same answers on another runtime, and nothing that TensorRT's parser lacks."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from pipeline.models.birefnet.decoder_block import DecoderBlock
from pipeline.models.birefnet.swin import SwinStage
from pipeline.models.export.comparison import differences, float32_tolerance
from pipeline.models.export.modules import example_inputs, graph_module, output_names, run_module
from pipeline.models.export.onnx_file import export_onnx, save_onnx
from pipeline.models.export.onnx_runner import OnnxRunner
from pipeline.models.export.operators import objections
from pipeline.models.export.specs import GraphSpec, graphs_of
from pipeline.models.zoo import VARIANTS
from scripts import verify_onnx
from tests.golden.goldens import give_synthetic_weights
from tests.pipeline.models.export import small


class PartOfBiRefNet(nn.Module):
    """What only BiRefNet has: shifted windows and deformable convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = SwinStage(8, 2, 2, 3, merge=False)
        self.block = DecoderBlock(8, 3, small.BIREFNET_SHAPE)

    def forward(self, x: Tensor) -> Tensor:
        tokens, _ = self.stage(x.permute(0, 2, 3, 1))
        y: Tensor = self.block(tokens.permute(0, 3, 1, 2))
        return y


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def assert_same_on_onnx_runtime(model: onnx.ModelProto, module: nn.Module, spec: GraphSpec) -> None:
    runner = OnnxRunner(model, threads=1)
    for batch in (1, 3):
        inputs = example_inputs(spec, batch, seed=batch)
        found = differences(runner.run(inputs), run_module(module, spec, inputs))
        for output, off in found.items():
            assert off.largest <= float32_tolerance(spec.name, output), (batch, output, off)
            assert off.scale > 0, output  # or nothing would show


def test_deformable_convolutions_and_shifted_windows_are_exported_with_a_free_batch() -> None:
    module = PartOfBiRefNet()
    give_synthetic_weights(module)
    module.requires_grad_(False)
    x = torch.rand(2, 8, 10, 7)
    module(x)
    model = export_onnx(module, {"x": x.numpy()}, ["y"])

    assert objections(model) == []
    assert "DeformConv" in operators(model)
    assert not operators(model) & {"Shape", "GridSample", "Attention"}
    runner = OnnxRunner(model, threads=1)
    for batch in (1, 3):
        x = torch.rand(batch, 8, 10, 7)
        torch.testing.assert_close(torch.from_numpy(runner.run({"x": x.numpy()})["y"]), module(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("spec", [small.EMBEDDING, small.MASKS, small.INPAINTING], ids=lambda spec: spec.name)
def test_a_graph_answers_as_pytorch_does_and_has_only_what_tensorrt_knows(spec: GraphSpec) -> None:
    module = graph_module(spec, small.NETWORKS[spec](), floats=True)
    model = export_onnx(module, example_inputs(spec, 2), output_names(spec, floats=True))

    assert objections(model) == []
    assert not operators(model) & {"DFT", "Col2Im"}
    assert_same_on_onnx_runtime(model, module, spec)


def test_lamas_fourier_units_stay_in_float32_when_the_rest_is_halved() -> None:
    spec = small.INPAINTING
    module = graph_module(spec, small.lama(), precision="fp16-fft32")
    model = export_onnx(module, example_inputs(spec, 2), output_names(spec))

    assert objections(model) == []
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds = {op: {types.get(n.input[1]) for n in model.graph.node if n.op_type == op} for op in ("Conv", "MatMul")}
    assert kinds["Conv"] == {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}  # the rest, the spectrum's
    assert onnx.TensorProto.FLOAT16 not in kinds["MatMul"]

    inputs = example_inputs(spec, 2)
    expected = run_module(graph_module(spec, small.lama()), spec, inputs)
    found = differences(OnnxRunner(model, threads=1).run(inputs), expected)
    assert found["pictures"].rms < 0.0056 * 255  # 45 dB


@pytest.mark.slow
@pytest.mark.parametrize("precision", [None, "fp16"])
def test_all_of_birefnet_answers_as_pytorch_does(precision: str | None) -> None:
    spec = small.MATTING
    module = graph_module(spec, small.birefnet(), precision="fp16" if precision else None, floats=True)
    model = export_onnx(module, example_inputs(spec, 2), output_names(spec, floats=True))

    assert objections(model) == []
    assert len([node for node in model.graph.node if node.op_type == "DeformConv"]) == 20
    assert "GridSample" not in operators(model)
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    modes = {a.s for node in resizes for a in node.attribute if a.name == "coordinate_transformation_mode"}
    assert modes == {b"align_corners"}
    if precision is None:
        assert_same_on_onnx_runtime(model, module, spec)
    else:
        sampled = {n.input[1] for n in model.graph.node if n.op_type == "DeformConv"}
        types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        assert {types[name] for name in sampled} == {onnx.TensorProto.FLOAT}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["lite", "mobile-sam", "lama"])
def test_graphs_of_full_size_have_only_what_tensorrt_knows(name: str, tmp_path: Path) -> None:
    spec = graphs_of(VARIANTS[name])[0]
    network = verify_onnx.network_for(VARIANTS[name], tmp_path)
    model = export_onnx(graph_module(spec, network), example_inputs(spec, 2), output_names(spec))
    assert objections(model) == []


def test_a_file_is_written_whole_with_its_weights(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1)).eval().requires_grad_(False)
    x = torch.rand(2, 1, 3, 4)
    model = export_onnx(module, {"x": x.numpy()}, ["y"])
    save_onnx(model, tmp_path / "folder" / "graph.onnx")

    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["graph.onnx"]
    y = OnnxRunner(str(tmp_path / "folder" / "graph.onnx"), threads=1).run({"x": x.numpy()})["y"]
    torch.testing.assert_close(torch.from_numpy(y), module(x))
