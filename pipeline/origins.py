"""Web origins: scheme, host and port of the pages that may call a service."""

from __future__ import annotations

import re

_ORIGIN = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9a-f:]+\])(:\d{1,5})?")


def parse_origins(text: str) -> tuple[str, ...]:
    """The origins in a list separated by commas. Raises ``ValueError`` naming what is no origin."""
    origins = tuple(filter(None, (part.strip().rstrip("/") for part in text.split(","))))
    for origin in origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin such as https://shop.example")
    if "*" in origins and len(origins) > 1:
        raise ValueError("* stands for every origin: name it alone")
    return origins
