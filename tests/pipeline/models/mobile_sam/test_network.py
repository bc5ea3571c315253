"""The network at small size: batches, prompts of every kind, constants that follow the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from pipeline.models.mobile_sam.network import DecodedMasks, MobileSam, MobileSamShape
from pipeline.models.mobile_sam.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, EMPTY, PADDING
from pipeline.models.mobile_sam.tiny_vit import TinyVitShape, merge_windows, split_windows

TAP = torch.tensor([[[20.0, 31.0], [0.0, 0.0]]]), torch.tensor([[1, PADDING]])
TWO_TAPS = torch.tensor([[[5.0, 9.0], [40.0, 50.0], [0.0, 0.0]]]), torch.tensor([[1, 0, PADDING]])
BOX = torch.tensor([[[4.0, 8.0], [50.0, 60.0]]]), torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]])


def images(count: int) -> Tensor:
    return torch.randn(count, 3, 64, 64, generator=torch.Generator().manual_seed(count))


def assert_same(ours: DecodedMasks, expected: DecodedMasks) -> None:
    torch.testing.assert_close(ours.logits, expected.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.iou, expected.iou, atol=1e-5, rtol=1e-5)


def together(*prompts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Prompts as one batch, the shorter ones with empty slots that hold nonsense."""
    longest = max(labels.shape[1] for _, labels in prompts)
    points = torch.full((len(prompts), longest, 2), 77.0)
    labels = torch.full((len(prompts), longest), EMPTY)
    for i, (own_points, own_labels) in enumerate(prompts):
        points[i, : own_labels.shape[1]] = own_points
        labels[i, : own_labels.shape[1]] = own_labels
    return points, labels


@torch.inference_mode()
def test_images_in_a_batch_are_embedded_as_alone(small_network: MobileSam) -> None:
    batch = images(3)
    embeddings = small_network.encode(batch)
    assert embeddings.shape == (3, 32, 4, 4)
    torch.testing.assert_close(embeddings[1:2], small_network.encode(batch[1:2]), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_prompts_on_one_image_are_decoded_as_alone(small_network: MobileSam) -> None:
    embedding = small_network.encode(images(1))
    alone = [small_network.decode(embedding, *prompt) for prompt in (TAP, TWO_TAPS, BOX)]
    found = small_network.decode(embedding, *together(TAP, TWO_TAPS, BOX))
    assert found.logits.shape == (3, 4, 16, 16)
    for i, expected in enumerate(alone):
        assert_same(DecodedMasks(found.logits[[i]], found.iou[[i]]), expected)
    assert (alone[0].logits - alone[1].logits).abs().max() > 0.01


@torch.inference_mode()
def test_each_prompt_is_decoded_on_the_image_it_names(small_network: MobileSam) -> None:
    embeddings = small_network.encode(images(2))
    index = torch.tensor([1, 0, 1])
    found = small_network.decode(embeddings, *together(TAP, TAP, BOX), image_index=index)
    for i, prompt in enumerate((TAP, TAP, BOX)):
        expected = small_network.decode(embeddings[index[i]][None], *prompt)
        assert_same(DecodedMasks(found.logits[[i]], found.iou[[i]]), expected)
    assert (found.logits[0] - found.logits[1]).abs().max() > 0.01


@torch.inference_mode()
def test_the_whole_network_is_encode_then_decode(small_network: MobileSam) -> None:
    batch = images(2)
    prompts = together(TAP, BOX)
    assert_same(small_network(batch, *prompts), small_network.decode(small_network.encode(batch), *prompts))


@torch.inference_mode()
def test_an_earlier_mask_counts_only_where_it_is_said_to(small_network: MobileSam) -> None:
    embedding = small_network.encode(images(1))
    earlier = small_network.decode(embedding, *TAP).logits[:, :1]
    points, labels = together(TAP, TAP)
    without = small_network.decode(embedding, *TAP)
    refined = small_network.decode(embedding, *TAP, mask_logits=earlier)
    mixed = small_network.decode(
        embedding, points, labels, mask_logits=earlier.repeat(2, 1, 1, 1), has_mask=torch.tensor([True, False])
    )
    assert_same(DecodedMasks(mixed.logits[:1], mixed.iou[:1]), refined)
    assert_same(DecodedMasks(mixed.logits[1:], mixed.iou[1:]), without)
    assert (refined.logits - without.logits).abs().max() > 0.01


@pytest.mark.parametrize("size_hw", [(5, 7), (6, 3), (1, 1), (9, 8)])
def test_windows_put_together_again_are_the_map(size_hw: tuple[int, int]) -> None:
    x = torch.arange(2 * size_hw[0] * size_hw[1] * 4.0).view(2, *size_hw, 4)
    torch.testing.assert_close(merge_windows(split_windows(x, 3), *size_hw), x)


@torch.inference_mode()
def test_weights_loaded_after_eval_are_the_ones_used(small_network: MobileSam) -> None:
    fresh = MobileSam(small_network.shape).eval()
    batch = images(1)
    fresh.load_state_dict(copy.deepcopy(small_network.state_dict()), strict=True)
    assert_same(fresh(batch, *TAP), small_network(batch, *TAP))


@torch.inference_mode()
def test_the_encoder_exports_for_any_number_of_images(small_network: MobileSam) -> None:
    any_number = torch.export.Dim("images", min=1, max=8)
    exported = torch.export.export(small_network.image_encoder, (images(2),), dynamic_shapes=({0: any_number},))
    torch.testing.assert_close(exported.module()(images(3)), small_network.encode(images(3)))


@torch.inference_mode()
def test_decoding_exports_for_any_number_of_prompts(small_network: MobileSam) -> None:
    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = small_network

        def forward(self, embeddings: Tensor, points: Tensor, labels: Tensor, image_index: Tensor) -> DecodedMasks:
            return self.network.decode(embeddings, points, labels, image_index=image_index)

    embeddings = small_network.encode(images(2))
    two, three = together(TAP, BOX), together(BOX, TAP, BOX)
    any_number = {0: torch.export.Dim("prompts", min=2, max=64)}
    exported = torch.export.export(
        Decode(), (embeddings, *two, torch.tensor([0, 1])), dynamic_shapes=(None, any_number, any_number, any_number)
    )
    index = torch.tensor([1, 1, 0])
    found = exported.module()(embeddings, *three, index)
    assert_same(DecodedMasks(*found), small_network.decode(embeddings, *three, image_index=index))


def test_training_and_inference_agree_and_the_biases_get_a_gradient(small_network: MobileSam) -> None:
    attention = small_network.image_encoder.get_submodule("layers.1.blocks.0.attn")
    x = torch.randn(1, 7, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = attention(x)
    found = attention.train()(x)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    (biases,) = (p for name, p in attention.named_parameters() if name == "attention_biases")
    assert biases.grad is not None
    assert biases.grad.abs().max() > 0


def test_constants_are_not_part_of_the_checkpoint(small_network: MobileSam) -> None:
    assert not [name for name in small_network.state_dict() if "_kept" in name]


def test_the_published_sizes_are_the_default() -> None:
    assert MobileSamShape().frame_px == 1024
    assert TinyVitShape().widths == (64, 128, 160, 320)
