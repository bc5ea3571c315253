"""The table of variants: complete, unambiguous, and as the published files are."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest

from pipeline.errors import ModelUnavailable
from pipeline.models.zoo import STAND_INS, VARIANTS, Variant, default_names, resolve

each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=lambda variant: variant.name)


@each_variant
def test_a_row_pins_its_file(variant: Variant) -> None:
    weights = variant.weights

    assert re.fullmatch(r"[0-9a-f]{64}", weights.sha256)
    assert weights.size_bytes > 10_000_000
    assert weights.license
    assert weights.file.endswith(".safetensors" if weights.format == "safetensors" else ".pt")


@each_variant
def test_a_row_names_addresses_of_its_own(variant: Variant) -> None:
    weights = variant.weights

    assert weights.mirrors
    assert len(set(weights.urls)) == len(weights.urls)
    assert all(re.fullmatch(r"https://[\w.-]+/[\w./-]+", url) for url in weights.urls)
    assert all(part in weights.url for part in (weights.repo, weights.revision, weights.file))


@each_variant
def test_a_publisher_s_file_cannot_move_under_its_address(variant: Variant) -> None:
    """A commit, or the tag of a release; never a branch."""
    assert re.fullmatch(r"[0-9a-f]{40}", variant.weights.revision) or "/releases/" in variant.weights.url


def test_names_files_and_versions_are_told_apart() -> None:
    for attribute in ("name", "model_version", "file_name", "unpinned_file_name"):
        values = [getattr(variant, attribute) for variant in VARIANTS.values()]
        assert len(set(values)) == len(values)
    assert len({variant.weights.sha256 for variant in VARIANTS.values()}) == len(VARIANTS)


def test_no_backbone_is_too_large_for_its_file() -> None:
    """Lite files are Swin-T: the two backbones differ five times in size."""
    for variant in VARIANTS.values():
        if variant.network == "birefnet":
            assert (variant.backbone == "swin_v1_t") == (variant.weights.size_bytes < 200_000_000)


def test_a_file_s_name_carries_its_pin() -> None:
    assert VARIANTS["lama"].file_name == "LaMa-344c77bb.safetensors"
    assert VARIANTS["lama"].download_name == "LaMa-344c77bb.pt"
    assert VARIANTS["lite"].download_name == VARIANTS["lite"].file_name == "BiRefNet-lite-4417d897.safetensors"
    assert VARIANTS["lite"].unpinned_file_name == "BiRefNet-lite.safetensors"


@pytest.mark.parametrize("name", ["general", "lite", "portrait", "matting", "hr", "anime", "mobile-sam", "lama"])
def test_a_variant_is_found_by_its_name(name: str) -> None:
    assert resolve(name).name == name


def test_high_resolution_variants_want_large_pictures() -> None:
    assert resolve("hr").input_size_hw == resolve("hr-matting").input_size_hw == (2048, 2048)


def test_product_is_general_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        variant = resolve("product")

    assert variant is VARIANTS["general"]
    assert "'general' stands in" in caplog.text


def test_a_stand_in_has_a_row() -> None:
    assert all(stand_in.variant in VARIANTS for stand_in in STAND_INS.values())
    assert not STAND_INS.keys() & VARIANTS.keys()


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ModelUnavailable, match=r"no model 'Lite'.*lite.*product"):
        resolve("Lite")


def test_a_cpu_starts_with_lite() -> None:
    assert default_names(has_gpu=False) == ("lite", "mobile-sam", "lama")
    assert default_names(has_gpu=True) == ("general", "mobile-sam", "lama")


def test_the_table_and_the_download_leave_torch_out() -> None:
    code = "import sys, pipeline.models.install, pipeline.models.weights; sys.exit('torch' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
