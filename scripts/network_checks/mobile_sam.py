"""MobileSAM against its goldens, stage by stage; ``tests/golden/mobilesam/README.md`` says what each golden is."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.models.mobile_sam.frame import fit_in_frame, lift_logits, place_prompt
from pipeline.models.mobile_sam.network import MobileSam
from pipeline.models.mobile_sam.predictor import MobileSamEmbedding, MobileSamPredictor
from pipeline.models.mobile_sam.prompt_encoder import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, EMPTY, PADDING
from pipeline.models.mobile_sam.tiny_vit import WindowAttention, split_windows
from pipeline.types import Prompt
from scripts.network_checks.outputs import outputs_of

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
Stages: TypeAlias = dict[str, tuple[NDArray[Any], NDArray[Any]]]

PROMPTS: Final = ("one", "two", "posneg")
UNDECIDED: Final = 1e-3
"""Mask pixels with a smaller logit may fall on either side."""


@dataclass(frozen=True)
class Tap:
    """Where a golden was taken: a module's output (B, C, H, W), every how many along each axis.

    Attributes:
        as_tokens: The slices are those of (B, H · W, C).
    """

    module: str
    steps: tuple[int, ...]
    as_tokens: bool = False

    def of(self, output: Tensor) -> NDArray[Any]:
        return _every(output.flatten(2).transpose(1, 2) if self.as_tokens else output, *self.steps)


ENCODER_TAPS: Final = {
    "patch_embed_s": Tap("patch_embed", (8, 16, 16)),
    "layer0_block0_s": Tap("layers.0.blocks.0", (8, 16, 16)),
    "layer0_block1_s": Tap("layers.0.blocks.1", (8, 16, 16)),
    "layer0_s": Tap("layers.0", (257, 4), as_tokens=True),
    "layer1_block0_s": Tap("layers.1.blocks.0", (257, 4), as_tokens=True),
    "layer1_s": Tap("layers.1", (61, 4), as_tokens=True),
    "layer2_block0_s": Tap("layers.2.blocks.0", (61, 4), as_tokens=True),
    "layer2_s": Tap("layers.2", (61, 4), as_tokens=True),
    "layer3_s": Tap("layers.3", (61, 4), as_tokens=True),
    "neck0_s": Tap("neck.0", (8, 8, 8)),
    "neck1_s": Tap("neck.1", (8, 8, 8)),
    "neck2_s": Tap("neck.2", (8, 8, 8)),
    "image_embeddings_s": Tap("", (4, 4, 4)),
}

TOLERANCES: Final[dict[str, float]] = {
    # What is only looked up or done by Pillow is exact; so are masks, but for undecided pixels.
    **dict.fromkeys(
        ("dense_none", "predictor_resized_uint8_s4", "predictor_resized_crc32", "predictor_input_size"), 0.0
    ),
    **{f"{case}_{what}": 0.0 for case in ("pred_one", "pred_posneg") for what in ("mask_bits", "answer")},
    "encoder_input_s16": 1e-6,
    **dict.fromkeys(
        ("one_sparse", "two_sparse", "posneg_sparse", "box_sparse", "dense_pe_s", "mask_prompt_dense_s"), 1e-5
    ),
    **dict.fromkeys((*ENCODER_TAPS, "layer1_block0_attn_s", "predictor_embedding_s"), 5e-5),
    **{f"one_{at}_{what}": 5e-5 for at in ("twoway0", "twoway1", "transformer") for what in ("queries", "keys_s")},
    **dict.fromkeys(("one_upscaled_s", "one_low_res_masks", "two_low_res_masks_s4", "posneg_low_res_masks_s4"), 5e-5),
    **{
        f"{case}_{what}": 5e-5
        for case in ("pred_one", "pred_posneg")
        for what in ("low_res_s4", "logits_s8", "single_logits_s8")
    },
    **{f"{name}_iou": 1e-5 for name in (*PROMPTS, "pred_one", "pred_one_single", "pred_posneg", "pred_posneg_single")},
}
"""Largest absolute error of each stage. Values reach about 10; the official code is 4e-6 off its own float64 run."""


def build(name: str) -> MobileSam:
    """The published sizes; ``name`` has no variants."""
    return MobileSam()


@torch.inference_mode()
def stages(network: MobileSam, golden: Arrays) -> Stages:
    """Every golden stage with ours first, arrays of one shape each; the encoder runs twice."""
    images = network_input(network, golden)
    with outputs_of(network.image_encoder, {tap.module for tap in ENCODER_TAPS.values()}) as outputs:
        embeddings = network.encode(images)
    found = {name: tap.of(outputs[tap.module]) for name, tap in ENCODER_TAPS.items()}
    found["encoder_input_s16"] = _every(images, 1, 16, 16)
    found["layer1_block0_attn_s"] = _window_attention(network, outputs["layers.0"])
    return (
        {name: (ours, golden[name]) for name, ours in found.items()}
        | prompt_stages(network, golden)
        | decoder_stages(network, golden, embeddings)
        | predictor_stages(network, golden)
    )


def network_input(network: MobileSam, golden: Arrays) -> Tensor:
    """What the encoder reads, float32, (1, 3, 1024, 1024)."""
    return MobileSamPredictor(network).normalise([golden["image"]])


@torch.inference_mode()
def prompt_stages(network: MobileSam, golden: Arrays) -> Stages:
    """Points, a box and an earlier mask, encoded."""
    encoder = network.prompt_encoder
    points, labels = padded_prompts(golden)
    sparse = encoder.encode_points(points, labels)
    found = {f"{name}_sparse": sparse[[i], : _slots(golden, name)].numpy() for i, name in enumerate(PROMPTS)}
    corners = torch.tensor([[BOX_TOP_LEFT, BOX_BOTTOM_RIGHT]])
    found["box_sparse"] = encoder.encode_points(torch.from_numpy(golden["box"]).view(1, 2, 2), corners).numpy()
    found["dense_pe_s"] = _every(encoder.map_code(), 4, 4, 4)
    found["dense_none"] = encoder.encode_masks(None, None).flatten(1).numpy()
    earlier = torch.from_numpy(golden["one_low_res_masks"][:, 1:2])
    found["mask_prompt_dense_s"] = _every(encoder.encode_masks(earlier, None), 4, 4, 4)
    return {name: (ours, golden[name]) for name, ours in found.items()}


@torch.inference_mode()
def decoder_stages(network: MobileSam, golden: Arrays, embeddings: Tensor) -> Stages:
    """Three prompts on one image, decoded together, from its embedding (1, 256, 64, 64)."""
    points, labels = padded_prompts(golden)
    decoder = network.mask_decoder
    with outputs_of(
        decoder, ["transformer", "transformer.layers.0", "transformer.layers.1", "output_upscaling"]
    ) as outputs:
        logits, iou = network.decode(embeddings, points, labels)
    found = {
        "one_upscaled_s": _every(outputs["output_upscaling"][:1], 1, 16, 16),
        "one_low_res_masks": logits[:1].numpy(),
    }
    tokens = 5 + _slots(golden, "one")
    for name, module in {"twoway0": "layers.0", "twoway1": "layers.1", "transformer": ""}.items():
        queries, keys = outputs[f"transformer.{module}".rstrip(".")]
        found[f"one_{name}_queries"] = queries[:1, :tokens].numpy()
        found[f"one_{name}_keys_s"] = _every(keys[:1], 61, 4)
    for i, name in enumerate(PROMPTS):
        found[f"{name}_iou"] = iou[[i]].numpy()
        if name != "one":
            found[f"{name}_low_res_masks_s4"] = _every(logits[[i]], 1, 4, 4)
    return {name: (ours, golden[name]) for name, ours in found.items()}


@torch.inference_mode()
def predictor_stages(network: MobileSam, golden: Arrays) -> Stages:
    """The whole path of a picture that is not as large as the frame."""
    picture = golden["predictor_image"]
    framed = fit_in_frame(picture, network.shape.frame_px)
    predictor = MobileSamPredictor(network)
    (embedding,) = predictor.embed([picture])
    if not isinstance(embedding, MobileSamEmbedding):
        raise TypeError(f"Not an embedding of this network: {type(embedding).__name__}")
    features = torch.from_numpy(embedding.features)[None]
    found: dict[str, NDArray[Any]] = {
        "predictor_resized_uint8_s4": framed[::4, ::4],
        "predictor_resized_crc32": np.array([zlib.crc32(framed.tobytes())], np.uint32),
        "predictor_input_size": np.array(embedding.framed_hw),
        "predictor_embedding_s": _every(features, 8, 4, 4),
    }
    expected = dict(golden)
    for case in ("pred_one", "pred_posneg"):
        prompt = Prompt(golden[f"{case}_points"], golden[f"{case}_labels"])
        size_hw, framed_hw = embedding.size_hw, embedding.framed_hw
        points, labels = place_prompt(prompt, size_hw, framed_hw)
        logits, iou = network.decode(features, torch.from_numpy(points)[None], torch.from_numpy(labels)[None])
        lifted = lift_logits(logits[0], network.shape.frame_px, framed_hw, size_hw).numpy()
        found[f"{case}_iou"], found[f"{case}_single_iou"] = iou[0, 1:].numpy(), iou[0, :1].numpy()
        found[f"{case}_low_res_s4"] = logits[0, 1:, ::4, ::4].numpy()
        found[f"{case}_logits_s8"] = lifted[1:, ::8, ::8]
        found[f"{case}_single_logits_s8"] = lifted[:1, ::8, ::8]

        masks = np.unpackbits(golden[f"{case}_mask_bits"], axis=1).reshape(3, *size_hw).astype(np.float32)
        expected[f"{case}_mask_bits"] = masks
        found[f"{case}_mask_bits"] = np.where(np.abs(lifted[1:]) < UNDECIDED, masks, lifted[1:] > 0).astype(np.float32)

        (answer,) = predictor.decode([embedding], [prompt], candidates=3)
        order = np.argsort(-golden[f"{case}_iou"])
        is_single = len(prompt.points) > 1
        best = golden[f"{case}_single_logits_s8"] if is_single else golden[f"{case}_logits_s8"][order]
        expected[f"{case}_answer"] = (best > 0).astype(np.float32)
        ours = answer.probabilities[:, ::8, ::8] > 127
        found[f"{case}_answer"] = np.where(np.abs(best) < UNDECIDED, best > 0, ours).astype(np.float32)
    return {name: (ours, expected[name]) for name, ours in found.items()}


def padded_prompts(golden: Arrays) -> tuple[Tensor, Tensor]:
    """The goldens' three prompts as one batch, float32 (3, T, 2) and int64 (3, T); the shorter have empty slots."""
    longest = max(_slots(golden, name) for name in PROMPTS)
    points = torch.zeros(len(PROMPTS), longest, 2)
    labels = torch.full((len(PROMPTS), longest), EMPTY)
    for i, name in enumerate(PROMPTS):
        given = _slots(golden, name) - 1
        points[i, :given] = torch.from_numpy(golden[f"{name}_points"][0])
        labels[i, :given] = torch.from_numpy(golden[f"{name}_labels"][0])
        labels[i, given] = PADDING
    return points, labels


def _slots(golden: Arrays, name: str) -> int:
    return int(golden[f"{name}_labels"].shape[1]) + 1  # the padding point


def _window_attention(network: MobileSam, x: Tensor) -> NDArray[Any]:
    """The first transformer block's attention, padding included: windows, tokens, channels."""
    attention = network.image_encoder.get_submodule("layers.1.blocks.0.attn")
    if not isinstance(attention, WindowAttention):
        raise TypeError(f"No attention over windows: {type(attention).__name__}")
    windows = split_windows(x.permute(0, 2, 3, 1), attention.window)
    mixed: Tensor = attention.proj(attention.attend(windows))
    return mixed[::40, ::4, ::4].numpy()


def _every(x: Tensor, *steps: int) -> NDArray[Any]:
    """``x`` sliced by ``steps`` along the axes after the first."""
    return x[(slice(None), *(slice(None, None, step) for step in steps))].numpy()
