"""The synthetic weights are those the goldens were made with, on any machine and version of NumPy."""

from __future__ import annotations

import numpy as np
import torch

from tests.golden.synthetic_weights import fill, normals


def test_the_random_stream_is_the_one_of_the_goldens() -> None:
    expected = np.array([-0.63296211, 1.25805306, 0.79218596, -1.3431015], np.float32)
    assert np.allclose(normals("probe", 4), expected, rtol=0, atol=1e-7)


def test_values_follow_from_names_without_their_prefix() -> None:
    bare, prefixed = {"layer.weight": torch.zeros(2, 3)}, {"module.layer.weight": torch.zeros(2, 3)}
    fill(bare)
    fill(prefixed, prefix="module.")
    assert torch.equal(bare["layer.weight"], prefixed["module.layer.weight"])
    assert bare["layer.weight"].std() > 0


def test_whole_numbers_are_left_alone() -> None:
    tensors = {"bn.num_batches_tracked": torch.tensor(7), "attention.relative_position_index": torch.arange(4)}
    fill(tensors)
    assert tensors["bn.num_batches_tracked"] == 7
    assert tensors["attention.relative_position_index"].tolist() == [0, 1, 2, 3]
