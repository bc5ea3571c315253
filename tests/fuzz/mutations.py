"""Damage to files, drawn by hypothesis so that a failure shrinks to the least of it."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import strategies as st

from scripts.hostile_files import Specimen

# Where parts of a file begin: a JPEG's markers, the names of a PNG's chunks, and those of a WebP's.
_PARTS = re.compile(rb"\xff[\xc0-\xfe]|IHDR|PLTE|tRNS|IDAT|IEND|iCCP|eXIf|VP8[ LX]|ALPH|ANM[FI]|ICCP|EXIF")
_EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)

Mutation = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Damaged:
    name: str
    data: bytes = field(repr=False)


def damaged(specimens: list[Specimen]) -> st.SearchStrategy[Damaged]:
    """One of the files with one to four kinds of damage done to it."""
    return st.builds(_apply, st.sampled_from(specimens), st.lists(_mutations(specimens), min_size=1, max_size=4))


def _apply(specimen: Specimen, mutations: list[Mutation]) -> Damaged:
    data = specimen.data
    for mutation in mutations:
        if data:
            data = mutation(data)
    return Damaged(specimen.name, data)


def _mutations(specimens: list[Specimen]) -> st.SearchStrategy[Mutation]:
    place = st.floats(0, 1, exclude_max=True)
    head = st.integers(0, 99).map(lambda number: number / 1000)  # headers are where files are most easily hurt
    anywhere = st.one_of(place, head)
    length = st.integers(1, 64)
    return st.one_of(
        st.builds(_cut, place),
        st.builds(_overwrite, anywhere, st.binary(min_size=1, max_size=8)),
        st.builds(_flip, anywhere, st.integers(0, 7)),
        st.builds(_fill, anywhere, length, st.sampled_from([0, 0xFF])),
        st.builds(_remove, anywhere, length),
        st.builds(_insert, anywhere, st.binary(min_size=1, max_size=16)),
        st.builds(_repeat, anywhere, length, st.integers(2, 50)),
        st.builds(_number, anywhere, st.sampled_from(_EXTREMES), st.sampled_from([">H", "<H", ">I", "<I"])),
        st.builds(_length_of_part, st.integers(0, 20), st.sampled_from(_EXTREMES)),
        st.builds(_swap_parts, st.integers(0, 20), st.integers(0, 20)),
        st.builds(_splice, place, place, st.sampled_from(specimens)),
    )


def _at(data: bytes, place: float) -> int:
    return int(place * len(data))


def _cut(place: float) -> Mutation:
    return lambda data: data[: _at(data, place)]


def _overwrite(place: float, new: bytes) -> Mutation:
    return lambda data: data[: _at(data, place)] + new + data[_at(data, place) + len(new) :]


def _flip(place: float, bit: int) -> Mutation:
    def flip(data: bytes) -> bytes:
        position = _at(data, place)
        return data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1 :]

    return flip


def _fill(place: float, length: int, value: int) -> Mutation:
    return _overwrite(place, bytes([value]) * length)


def _remove(place: float, length: int) -> Mutation:
    return lambda data: data[: _at(data, place)] + data[_at(data, place) + length :]


def _insert(place: float, new: bytes) -> Mutation:
    return lambda data: data[: _at(data, place)] + new + data[_at(data, place) :]


def _repeat(place: float, length: int, times: int) -> Mutation:
    def repeat(data: bytes) -> bytes:
        position = _at(data, place)
        return data[:position] + data[position : position + length] * times + data[position + length :]

    return repeat


def _number(place: float, value: int, layout: str) -> Mutation:
    return _overwrite(place, struct.pack(layout, value & (0xFFFF if "H" in layout else 0xFFFFFFFF)))


def _length_of_part(number: int, value: int) -> Mutation:
    """Has a part lie about its length, which in a PNG stands before the part's name and elsewhere behind it."""

    def lie(data: bytes) -> bytes:
        starts = [found.start() for found in _PARTS.finditer(data)]
        if not starts:
            return data
        start = starts[number % len(starts)]
        if data[start] == 0xFF:
            return data[: start + 2] + struct.pack(">H", value & 0xFFFF) + data[start + 4 :]
        if data.startswith(b"\x89PNG"):
            return data[: start - 4] + struct.pack(">I", value) + data[start:]
        return data[: start + 4] + struct.pack("<I", value) + data[start + 8 :]

    return lie


def _swap_parts(first: int, second: int) -> Mutation:
    def swap(data: bytes) -> bytes:
        starts = [found.start() for found in _PARTS.finditer(data)]
        if len(starts) < 2:
            return data
        edges = [0, *starts, len(data)]
        parts = [data[start:end] for start, end in pairwise(edges)]
        a, b = 1 + first % len(starts), 1 + second % len(starts)
        parts[a], parts[b] = parts[b], parts[a]
        return b"".join(parts)

    return swap


def _splice(place: float, other_place: float, other: Specimen) -> Mutation:
    return lambda data: data[: _at(data, place)] + other.data[_at(other.data, other_place) :]
