"""Which files go to which route, whole and damaged, always in the same order for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROUTES = ("/api/background-removal/remove", "/upload")


@dataclass(frozen=True)
class Attempt:
    """One request.

    Attributes:
        number: Which it is, from 0.
        path: The file it is made of.
        route: Where it goes.
        damage_seed: What its damage is drawn from; None sends the file as it is.
    """

    number: int
    path: Path
    route: str
    damage_seed: int | None

    @property
    def what(self) -> str:
        return self.path.name if self.damage_seed is None else f"{self.path.name} (damaged, {self.damage_seed})"

    def body(self) -> bytes:
        data = self.path.read_bytes()
        return data if self.damage_seed is None else damage(data, random.Random(self.damage_seed))


def plan(paths: Sequence[Path], count: int, seed: int) -> Iterator[Attempt]:
    """Every file to every route as it is; then damaged ones, until there are ``count`` attempts."""
    chance = random.Random(seed)
    whole = [(path, route) for path in paths for route in ROUTES]
    chance.shuffle(whole)
    for number, (path, route) in enumerate(whole):
        yield Attempt(number, path, route, None)
    for number in range(len(whole), count):
        yield Attempt(number, chance.choice(paths), chance.choice(ROUTES), chance.getrandbits(32))


def damage(data: bytes, chance: random.Random) -> bytes:
    """The file cut short, with some bytes changed, or both."""
    if not data:
        return data
    how = chance.randrange(3)
    if how != 0:
        changed = bytearray(data)
        # Half of the changes go into the first bytes, where the headers are.
        for _ in range(chance.choice((1, 2, 5, 20))):
            end = len(data) if chance.random() < 0.5 else min(len(data), 200)
            changed[chance.randrange(end)] = chance.randrange(256)
        data = bytes(changed)
    if how != 1:
        data = data[: chance.randrange(len(data) + 1)]
    return data
