"""Pictures in quarantine: which, and for how long."""

from __future__ import annotations

import pytest

from deployments.quarantine import MAX_PICTURES, QUARANTINE_S, Quarantine
from pipeline.errors import Quarantined


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_picture_is_refused_until_its_time_is_over() -> None:
    clock = Clock()
    quarantine = Quarantine(now=clock)
    quarantine.add(b"poison")
    clock.now = QUARANTINE_S - 1
    with pytest.raises(Quarantined) as caught:
        quarantine.check(b"poison")
    assert caught.value.detail == "This picture made the model fail twice; it is not processed."
    clock.now = QUARANTINE_S
    quarantine.check(b"poison")


def test_other_pictures_pass() -> None:
    quarantine = Quarantine()
    quarantine.check(b"photo")
    quarantine.add(b"poison")
    quarantine.check(b"photo")


def test_it_does_not_grow_for_ever() -> None:
    clock = Clock()
    quarantine = Quarantine(now=clock)
    for number in range(MAX_PICTURES + 1):
        quarantine.add(b"%d" % number)
    quarantine.check(b"0")
    with pytest.raises(Quarantined):
        quarantine.check(b"1")
    clock.now = QUARANTINE_S
    quarantine.add(b"new")
    assert len(quarantine._until) == 1
