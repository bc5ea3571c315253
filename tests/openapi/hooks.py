"""Schemathesis's pictures: wherever the description says ``format: binary``, a real one is sent."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image

DATA = Path(__file__).resolve().parents[1] / "data"


def drawn(side_px: int, image_format: str) -> bytes:
    """A small picture: a disc's worth of red on blue."""
    picture = Image.new("RGB", (side_px, side_px + 7), "navy")
    picture.paste("red", (side_px // 4, side_px // 4, side_px // 2, side_px // 2))
    file = io.BytesIO()
    picture.save(file, image_format)
    return file.getvalue()


PICTURES = [
    drawn(64, "PNG"),
    drawn(80, "JPEG"),
    drawn(96, "WEBP"),
    drawn(65, "BMP"),
    (DATA / "coffee.jpg").read_bytes(),
]

schemathesis.openapi.format("binary", st.sampled_from(PICTURES))


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Taps a point that lies on every picture above, where a call follows another one: so that jobs get work."""
    meta, body = case.meta, case.body
    if case.path != "/segment" or meta is None or meta.generation.mode.is_negative or not isinstance(body, dict):
        return
    if meta.phase.name.value == "stateful":
        case.body = {"job_id": body.get("job_id"), "coordinates_list": [[32, 32]]}
        case.query = {}
