"""Every file of the corpus meets the fate it is there for."""

from __future__ import annotations

from collections import Counter

import numpy as np

from pipeline.codecs import DecoderPool, decode_image
from pipeline.errors import ClearcutError
from scripts.hostile_files import Specimen, all_specimens
from scripts.hostile_files.bmps import bmps
from scripts.hostile_files.specimen import OK


def outcome(data: bytes) -> str:
    """``ok`` or the error's code. Any error outside our tree passes on."""
    try:
        picture = decode_image(data)
    except ClearcutError as error:
        return error.code
    assert picture.pixels.dtype == np.uint8
    assert picture.pixels.ndim == 3
    assert picture.alpha is None or picture.alpha.shape == picture.pixels.shape[:2]
    return OK


def test_every_file_works_or_gets_its_documented_error(corpus: list[Specimen], decoders: DecoderPool) -> None:
    found = {specimen.name: outcome(specimen.data) for specimen in corpus}
    wrong = {s.name: (found[s.name], s.outcomes) for s in corpus if found[s.name] not in s.outcomes}
    assert wrong == {}
    assert decoders.broken == 0


def test_the_corpus_holds_every_format_and_every_fate(corpus: list[Specimen]) -> None:
    kinds = Counter(specimen.name.partition("-")[0] for specimen in corpus)
    assert all(kinds[kind] >= 50 for kind in ("jpeg", "png", "webp", "bmp"))
    assert len({specimen.name for specimen in corpus}) == len(corpus)
    fates = {fate for specimen in corpus for fate in specimen.outcomes}
    assert fates == {
        OK,
        "INVALID_IMAGE",
        "INVALID_FORMAT",
        "IMAGE_BOMB",
        "RESOLUTION_TOO_LARGE",
        "IMAGE_TOO_SMALL",
        "FILE_TOO_LARGE",
    }


def test_the_corpus_is_the_same_every_time(corpus: list[Specimen]) -> None:
    assert [specimen.name for specimen, other in zip(corpus, all_specimens(), strict=True) if specimen != other] == []


def test_another_seed_is_another_corpus(corpus: list[Specimen]) -> None:
    others = {specimen.name: specimen.data for specimen in bmps(seed=1)}
    bitmaps = [specimen for specimen in corpus if specimen.name in others]
    assert sum(others[specimen.name] != specimen.data for specimen in bitmaps) > len(bitmaps) // 2
