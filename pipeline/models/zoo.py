"""Every model variant and its weight file, as one table: a new variant is one row.

Pins are those that independent public projects agree on; a file that does not match its pin is never loaded
(``weights.py``). Files are fetched by ``scripts/download_models.py``. Nothing here imports torch.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pipeline.errors import ModelUnavailable

Network: TypeAlias = Literal["birefnet", "mobile_sam", "lama"]
FileFormat: TypeAlias = Literal["safetensors", "pickle", "torchscript"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Weights:
    """A published weight file: where it is and how it is known again.

    Attributes:
        repo: Owner and name of the repository that publishes it.
        revision: Commit or release tag there.
        file: Path of the file in the repository.
        url: The publisher's address of exactly that file.
        sha256: Of the published file, lower case hex: the pin.
        size_bytes: Of the published file.
        license: SPDX identifier, and what else must be known.
        mirrors: Further addresses of the same bytes, tried in order.
        format: ``pickle`` and ``torchscript`` files are converted to safetensors once, after their hash matched.
    """

    repo: str
    revision: str
    file: str
    url: str
    sha256: str
    size_bytes: int
    license: str
    mirrors: tuple[str, ...] = ()
    format: FileFormat = "safetensors"

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses, the publisher's first."""
        return (self.url, *self.mirrors)


@dataclass(frozen=True)
class Variant:
    """One model that can be asked for by name.

    Attributes:
        name: What configuration and command lines call it.
        network: Which of the three networks it is.
        model_version: What answers call it (``X-Model-Version``), and the stem of its file's name.
        backbone: Which encoder the weights belong to.
        input_size_hw: The size images are brought to; None if any multiple of 8 will do.
        weights: The published file.
    """

    name: str
    network: Network
    model_version: str
    backbone: str
    input_size_hw: tuple[int, int] | None
    weights: Weights

    @property
    def file_name(self) -> str:
        """Name of the official file in the models folder. It carries the pin: big-lama.pt alone names two files."""
        return f"{self.model_version}-{self.weights.sha256[:8]}.safetensors"

    @property
    def download_name(self) -> str:
        """Name of the published file in the models folder, before it is converted."""
        return self.file_name if self.weights.format == "safetensors" else self.file_name.replace(".safetensors", ".pt")

    @property
    def unpinned_file_name(self) -> str:
        """Name of a synthetic or custom file in the models folder."""
        return f"{self.model_version}.safetensors"


@dataclass(frozen=True)
class StandIn:
    """A name without weights of its own.

    Attributes:
        variant: The row that stands for it.
        reason: Why, as a sentence.
    """

    variant: str
    reason: str


def _hugging_face(
    repo: str,
    revision: str,
    *,
    sha256: str,
    size_bytes: int,
    file: str = "model.safetensors",
    license: str = "MIT",
    modelscope: tuple[str, str] | None = None,
) -> Weights:
    """A file on Hugging Face, on the mirror with the same paths and, where it is there, on ModelScope (repo, file)."""
    path = f"{repo}/resolve/{revision}/{file}"
    mirrors = [f"https://hf-mirror.com/{path}"]
    if modelscope is not None:
        mirrors.append(f"https://modelscope.cn/models/{modelscope[0]}/resolve/master/{modelscope[1]}")
    return Weights(
        repo=repo,
        revision=revision,
        file=file,
        url=f"https://huggingface.co/{path}",
        sha256=sha256,
        size_bytes=size_bytes,
        license=license,
        mirrors=tuple(mirrors),
    )


def _birefnet(name: str, suffix: str, weights: Weights, *, size: int = 1024, backbone: str = "swin_v1_l") -> Variant:
    return Variant(name, "birefnet", f"BiRefNet-{suffix}", backbone, (size, size), weights)


_ROWS = (
    _birefnet(
        "general",
        "general",
        _hugging_face(
            "ZhengPeng7/BiRefNet",
            "e2bf8e4460fc8fa32bba5ea4d94b3233d367b0e4",
            sha256="9ab37426bf4de0567af6b5d21b16151357149139362e6e8992021b8ce356a154",
            size_bytes=444_473_596,
            modelscope=("modelscope/BiRefNet", "model.safetensors"),
        ),
    ),
    _birefnet(
        "lite",
        "lite",
        _hugging_face(
            "ZhengPeng7/BiRefNet_lite",
            "7838f1c3472f827cd8ce13ab5ccc2ce48077360f",
            sha256="4417d89795250e698c3cb0ae8df15743810065f646f48a694fdfa7ca052d0815",
            size_bytes=177_634_392,
            modelscope=("1038lab/BiRefNet", "BiRefNet_lite.safetensors"),
        ),
        backbone="swin_v1_t",
    ),
    _birefnet(
        "portrait",
        "portrait",
        _hugging_face(
            "ZhengPeng7/BiRefNet-portrait",
            "b6561965a70070d9143fd9e558f6ca3c481510db",
            sha256="4a4eb3a5469b75f0cccaec6772c22fc30e6c12ed429c2c0ba71b43e3d8d97182",
            size_bytes=884_878_856,
            modelscope=("1038lab/BiRefNet", "BiRefNet-portrait.safetensors"),
        ),
    ),
    _birefnet(
        "matting",
        "matting",
        _hugging_face(
            "ZhengPeng7/BiRefNet-matting",
            "57f9f68b43ba337c75762b14cf3075d659007268",
            sha256="a9875de5b1e6c8eb5fdaa8c727a82927ce442cdc87ba3abee6a77e6fa46c25bb",
            size_bytes=884_878_856,
            modelscope=("1038lab/BiRefNet", "BiRefNet-matting.safetensors"),
        ),
    ),
    _birefnet(
        "hr",
        "HR",
        _hugging_face(
            "ZhengPeng7/BiRefNet_HR",
            "a7a562f6fd16021180f2f4348f4de003a2d3d1e1",
            sha256="9d678bafec0b0019fbb073b7fd02f05ede25dc4b15254f23b2fb0be333200c0d",
            size_bytes=444_473_596,
            modelscope=("1038lab/BiRefNet", "BiRefNet-HR.safetensors"),
        ),
        size=2048,
    ),
    _birefnet(
        "hr-matting",
        "HR-matting",
        _hugging_face(
            "ZhengPeng7/BiRefNet_HR-matting",
            "5d6b6f8adcb5b417c871b1d84ceaae9871355b7f",
            sha256="a5a4de698739ea5e0e8bbab28e1b293dde95092b87a442d566cbc585c53cef55",
            size_bytes=444_473_596,
            modelscope=("1038lab/BiRefNet", "BiRefNet-HR-matting.safetensors"),
        ),
        size=2048,
    ),
    _birefnet(
        "dynamic",
        "dynamic",
        _hugging_face(
            "ZhengPeng7/BiRefNet_dynamic",
            "280306042f57b7a33854319da62fd86aaa89ec4c",
            sha256="e3d2e4884e51ff30f0cd630edc6b1e41b06b7f23a0a2a5169f7b7cb33a711c2d",
            size_bytes=444_473_596,
            modelscope=("1038lab/BiRefNet", "BiRefNet_dynamic.safetensors"),
        ),
        size=1024,  # trained with sides from 256 to 2304
    ),
    _birefnet(
        "anime",
        "ToonOut",
        # joelseytre/toonout publishes a pickle that nobody pins; this is its state as safetensors.
        _hugging_face(
            "1038lab/BiRefNet",
            "4d000788a9698c7f8d67c8c6ce2b40c768f5b909",
            file="BiRefNet_toonout.safetensors",
            sha256="5ff451d2e1d15dd22a66efea05640f79e470467f89f8bdc239a81a6757f66093",
            size_bytes=884_878_824,
            license="MIT (its training data: CC-BY-4.0)",
            modelscope=("1038lab/BiRefNet", "BiRefNet_toonout.safetensors"),
        ),
    ),
    Variant(
        "mobile-sam",
        "mobile_sam",
        "MobileSAM",
        "vit_t",
        (1024, 1024),
        Weights(
            repo="ChaoningZhang/MobileSAM",
            revision="34bbbfdface3c18e5221aa7de6032d7220c6c6a1",
            file="weights/mobile_sam.pt",
            url="https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/"
            "34bbbfdface3c18e5221aa7de6032d7220c6c6a1/weights/mobile_sam.pt",
            sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            size_bytes=40_728_226,
            license="Apache-2.0",
            mirrors=("https://github.com/Sanster/models/releases/download/MobileSAM/mobile_sam.pt",),
            format="pickle",
        ),
    ),
    Variant(
        "lama",
        "lama",
        "LaMa",
        "ffc",
        None,
        Weights(
            repo="Sanster/models",
            revision="add_big_lama",
            file="big-lama.pt",
            url="https://github.com/Sanster/models/releases/download/add_big_lama/big-lama.pt",
            sha256="344c77bbcb158f17dd143070d1e789f38a66c04202311ae3a258ef66667a9ea9",
            size_bytes=205_669_692,
            license="Apache-2.0",
            mirrors=(
                "https://huggingface.co/signature-ai/big-lama/resolve/main/big-lama.pt",
                "https://huggingface.co/gaspardbruno/BigLama/resolve/main/big-lama.pt",
            ),
            format="torchscript",
        ),
    ),
)

VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _ROWS}

STAND_INS: dict[str, StandIn] = {
    "product": StandIn("general", "No official checkpoint for product photos exists."),
}


def resolve(name: str) -> Variant:
    """The variant called ``name``, or the one that stands in for it; the log says so if it does.

    Raises:
        ModelUnavailable: The table has no such name.
    """
    stand_in = STAND_INS.get(name)
    if stand_in is not None:
        logger.info("Model '%s': %s '%s' stands in for it.", name, stand_in.reason, stand_in.variant)
        name = stand_in.variant
    if name not in VARIANTS:
        known = ", ".join([*VARIANTS, *STAND_INS])
        raise ModelUnavailable(f"There is no model '{name[:64]}'. Known are: {known}.", model=name[:64])
    return VARIANTS[name]


def default_names(*, has_gpu: bool) -> tuple[str, ...]:
    """What a fresh installation needs; a CPU gets lite, because general would use up most of a request's deadline."""
    return ("general" if has_gpu else "lite", "mobile-sam", "lama")
