"""What each tier is allowed, and which routes are work: two tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from deployments.clients import Client
from pipeline.jobs.api_keys import Tier


@dataclass(frozen=True)
class Allowance:
    """The limits of one client.

    Attributes:
        per_minute: Requests in any 60 seconds; of a batch, each image is one.
        at_once: Requests at work at the same time.
    """

    per_minute: int
    at_once: int


TIERS: Final[dict[Tier, Allowance]] = {
    "free": Allowance(per_minute=30, at_once=3),
    "basic": Allowance(per_minute=100, at_once=10),
    "pro": Allowance(per_minute=1000, at_once=50),
}
ANONYMOUS_AT_ONCE = 3

BY_ROUTE = 0
"""The cost of a request that tells only in its body how much it asks for: its route charges, see ``Visit.charge``."""

COSTS: Final[dict[tuple[str, str], int]] = {
    ("POST", "/api/background-removal/remove"): 1,
    ("POST", "/upload"): 1,
    ("POST", "/segment"): 1,
}
"""The routes that are work, with what one request counts. All others are free."""


def allowance_of(client: Client, *, anonymous_per_minute: int) -> Allowance:
    """What ``client`` may ask for."""
    if client.tier == "anonymous":
        return Allowance(anonymous_per_minute, ANONYMOUS_AT_ONCE)
    return TIERS[client.tier]


def cost_of(method: str, path: str) -> int | None:
    """What a request counts, ``BY_ROUTE`` included; None if it is free."""
    # A route's pattern also matches its path with a line feed at the end ("/upload%0A").
    return COSTS.get((method, path.removesuffix("\n")))
