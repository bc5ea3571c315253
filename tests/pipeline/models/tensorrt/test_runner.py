"""What can be known of an engine's buffers without a GPU, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.errors import InferenceError, ModelNotLoaded
from pipeline.models.export.modules import example_inputs
from pipeline.models.export.specs import Port, graphs_of, inpainting
from pipeline.models.tensorrt import rung
from pipeline.models.tensorrt.platform import load_tensorrt, missing_names, this_platform
from pipeline.models.tensorrt.runner import Scratch, batch_of, buffer_bytes
from pipeline.models.weights import VerifiedWeights
from pipeline.models.zoo import VARIANTS

SPEC = inpainting(32)

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_buffers_hold_a_batch_of_the_ports_type() -> None:
    assert buffer_bytes(Port("images", "uint8", (5, 7, 3)), 4) == 4 * 5 * 7 * 3
    assert buffer_bytes(Port("mean_logits", "float32", ()), 8) == 8 * 4
    assert buffer_bytes(Port("labels", "int32", (34,)), 1) == 34 * 4


def test_buffers_of_the_largest_graph_are_counted_without_overflow() -> None:
    (spec,) = graphs_of(VARIANTS["general"])
    assert buffer_bytes(spec.inputs[0], 8) == 8 * 1024 * 1024 * 3
    assert buffer_bytes(Port("large", "float32", (2**16, 2**16)), 1) == 2**34


class Allocator:
    """Addresses instead of memory; each is a new one."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def mem_alloc(self, size: int) -> int:
        if size > 1000:
            raise MemoryError
        self.asked.append(size)
        return 4096 * len(self.asked)


def test_scratch_memory_grows_when_more_is_asked_for_and_is_kept_otherwise() -> None:
    scratch, allocator = Scratch(), Allocator()
    assert scratch.address(allocator, 0) == 0
    assert [scratch.address(allocator, size) for size in (100, 50, 100, 101)] == [4096, 4096, 4096, 8192]
    assert allocator.asked == [100, 101]


def test_scratch_memory_that_could_not_grow_is_asked_for_anew() -> None:
    scratch, allocator = Scratch(), Allocator()
    scratch.address(allocator, 100)
    with pytest.raises(MemoryError):
        scratch.address(allocator, 1001)
    assert scratch.address(allocator, 50) == 8192
    assert allocator.asked == [100, 50]


def test_the_batch_is_read_from_the_inputs() -> None:
    assert batch_of(SPEC, example_inputs(SPEC, 2)) == 2


def test_a_batch_without_a_profile_is_refused() -> None:
    with pytest.raises(InferenceError, match="at a time, not 3"):
        batch_of(SPEC, example_inputs(SPEC, 3))


@pytest.mark.parametrize(
    "masks",
    [None, np.zeros((2, 32, 32), np.bool_), np.zeros((2, 32, 31), np.uint8), np.zeros((1, 32, 32), np.uint8)],
    ids=["missing", "another type", "another shape", "another batch"],
)
def test_inputs_that_are_not_the_graphs_are_refused(masks: np.ndarray | None) -> None:
    inputs = example_inputs(SPEC, 2)
    del inputs["masks"]
    with pytest.raises(InferenceError, match="wants masks as uint8"):
        batch_of(SPEC, inputs if masks is None else inputs | {"masks": masks})


@no_gpu
def test_without_a_gpu_the_reason_and_the_remedy_are_told() -> None:
    with pytest.raises(ModelNotLoaded, match=r"TensorRT needs an NVIDIA GPU.*setup_env\.sh --gpu"):
        this_platform()


@no_gpu
def test_every_models_rung_refuses_in_words_where_there_is_no_gpu(tmp_path: Path) -> None:
    for name, load in (("lite", rung.matting), ("mobile-sam", rung.segmentation), ("lama", rung.inpainting)):
        weights = VerifiedWeights(tmp_path / "file.safetensors", VARIANTS[name], "synthetic", "0" * 64)
        with pytest.raises(ModelNotLoaded, match="NVIDIA GPU"):
            load(weights)


def test_what_an_api_lacks_is_named() -> None:
    missing = missing_names(SimpleNamespace(Runtime=SimpleNamespace(deserialize_cuda_engine=None)))
    assert "Runtime.deserialize_cuda_engine" not in missing
    assert "Builder.create_network" in missing
    assert "BuilderFlag.TF32" in missing


@pytest.mark.gpu
def test_this_tensorrt_has_all_names_that_are_used() -> None:
    pytest.importorskip("tensorrt", reason="tensorrt is not installed", exc_type=ImportError)
    assert missing_names(load_tensorrt()) == []
