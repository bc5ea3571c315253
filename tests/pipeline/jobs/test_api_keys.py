"""API keys on both databases: made, found, ended, replaced; never kept in clear."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from pipeline.jobs.api_keys import ApiKey, ApiKeys, KeyProblem, fingerprint
from tests.pipeline.jobs.conftest import Clock

Open = Callable[..., ApiKeys]


@pytest.fixture
def open_keys(url: str, clock: Clock) -> Iterator[Open]:
    opened: list[ApiKeys] = []

    def open_one(**options: str) -> ApiKeys:
        opened.append(ApiKeys(url, now=clock, **options))
        return opened[-1]

    yield open_one
    for keys in opened:
        keys.close()


@pytest.fixture
def keys(open_keys: Open) -> ApiKeys:
    return open_keys()


def find(keys: ApiKeys, text: str) -> ApiKey | None:
    digest = fingerprint(text)
    assert digest is not None
    return keys.find(digest)


def test_a_new_key_is_found_by_its_text(keys: ApiKeys, open_keys: Open, clock: Clock) -> None:
    key, text = keys.create("bench", "pro")

    assert find(open_keys(), text) == key
    assert (key.name, key.tier, key.created_at, key.last_used_at, key.ends_at) == (
        "bench",
        "pro",
        clock.seconds,
        None,
        None,
    )


def test_a_key_is_long_and_no_two_are_alike(keys: ApiKeys) -> None:
    texts = [keys.create(str(number), "free")[1] for number in range(50)]

    assert all(re.fullmatch(r"cc_[0-9a-f]{8}_[0-9a-f]{40}", text) for text in texts)
    assert len({text[12:] for text in texts}) == len({text[3:11] for text in texts}) == 50


def test_no_key_is_kept_in_clear(keys: ApiKeys, url: str) -> None:
    _, text = keys.create("bench", "pro")
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    metadata = sa.MetaData()
    metadata.reflect(engine)
    with engine.connect() as connection:
        kept = repr([list(connection.execute(sa.select(table))) for table in metadata.sorted_tables])
    engine.dispose()

    assert text[3:11] in kept
    assert text[12:] not in kept
    assert (fingerprint(text) or "") not in kept


def test_an_unknown_key_is_not_found(keys: ApiKeys) -> None:
    _, text = keys.create("bench", "pro")

    assert find(keys, text[:-1] + ("0" if text[-1] != "0" else "1")) is None


@pytest.mark.parametrize("text", ["", "cc_", "cc_00000000_0", "CC_00000000_" + 40 * "0", "x" * 10_000, "ключ"])
def test_what_cannot_be_a_key_has_no_fingerprint(text: str) -> None:
    assert fingerprint(text) is None


def test_a_name_is_given_to_one_key(keys: ApiKeys) -> None:
    keys.create("bench", "pro")

    with pytest.raises(KeyProblem, match="There is a key named 'bench'"):
        keys.create("bench", "free")


def test_of_many_at_once_one_gets_the_name(open_keys: Open) -> None:
    def create(keys: ApiKeys) -> bool:
        try:
            keys.create("bench", "pro")
        except KeyProblem:
            return False
        return True

    several = [open_keys() for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, several)) == 1


@pytest.mark.parametrize("name", ["", " ", "-x", "a\nb", "x" * 65, "12345678", "cc_12345678", "naïve", "a/b"])
def test_a_name_is_plain_and_unlike_a_key(keys: ApiKeys, name: str) -> None:
    with pytest.raises(KeyProblem, match="A name is"):
        keys.create(name, "free")


@pytest.mark.parametrize("call_it", ["name", "prefix", "start", "whole"])
def test_a_revoked_key_is_not_found(keys: ApiKeys, call_it: str) -> None:
    key, text = keys.create("bench", "pro")
    other, other_text = keys.create("other", "pro")
    called = {"name": "bench", "prefix": key.prefix, "start": f"cc_{key.prefix}", "whole": text}[call_it]

    assert [ended.prefix for ended in keys.revoke(called)] == [key.prefix]

    assert find(keys, text) is None
    assert find(keys, other_text) == other


def test_a_revoked_name_is_free_for_somebody_else(keys: ApiKeys) -> None:
    first, _ = keys.create("bench", "pro")
    keys.revoke("bench")

    second, text = keys.create("bench", "free")

    assert second.key_id != first.key_id
    assert find(keys, text) == second


@pytest.mark.parametrize("name", ["nobody", "00000000", ""])
def test_only_a_key_in_use_can_be_revoked_or_replaced(keys: ApiKeys, name: str) -> None:
    keys.create("bench", "pro")
    keys.revoke("bench")

    for end in (keys.revoke, keys.rotate):
        with pytest.raises(KeyProblem, match="No key in use"):
            end(name)
        with pytest.raises(KeyProblem, match="No key in use"):
            end("bench")


def test_a_replaced_key_ends_and_its_successor_is_the_same_client(keys: ApiKeys) -> None:
    old, old_text = keys.create("bench", "pro")

    new, new_text = keys.rotate("bench")

    assert find(keys, old_text) is None
    assert find(keys, new_text) == new
    assert (new.key_id, new.name, new.tier) == (old.key_id, old.name, old.tier)
    assert new.prefix != old.prefix


def test_a_replaced_key_goes_on_through_its_grace_time(keys: ApiKeys, clock: Clock) -> None:
    _, old_text = keys.create("bench", "pro")
    _, new_text = keys.rotate("bench", grace_s=3600)

    clock.seconds += 3599
    assert find(keys, old_text) is not None
    clock.seconds += 1
    assert find(keys, old_text) is None
    assert find(keys, new_text) is not None


def test_a_key_in_its_grace_time_cannot_be_replaced_again(keys: ApiKeys) -> None:
    old, _ = keys.create("bench", "pro")
    keys.rotate("bench", grace_s=3600)

    with pytest.raises(KeyProblem, match="No key in use"):
        keys.rotate(old.prefix)


def test_revoking_by_name_ends_the_grace_time_too(keys: ApiKeys) -> None:
    _, old_text = keys.create("bench", "pro")
    _, new_text = keys.rotate("bench", grace_s=3600)

    assert len(keys.revoke("bench")) == 2

    assert find(keys, old_text) is find(keys, new_text) is None


def test_uses_are_recorded(keys: ApiKeys, clock: Clock) -> None:
    key, text = keys.create("bench", "pro")
    clock.seconds += 1
    keys.create("other", "pro")

    keys.used({key.prefix: 12.5, "00000000": 13.0})

    assert [known.last_used_at for known in keys.all()] == [12.5, None]
    assert find(keys, text) == keys.all()[0]


def test_ended_keys_stay_listed(keys: ApiKeys, clock: Clock) -> None:
    keys.create("bench", "pro")
    clock.seconds += 1
    keys.rotate("bench")

    assert [(key.name, key.ends_at) for key in keys.all()] == [("bench", clock.seconds), ("bench", None)]


def test_another_secret_knows_no_key(open_keys: Open) -> None:
    _, text = open_keys(secret="one").create("bench", "pro")

    assert find(open_keys(secret="one"), text) is not None
    assert find(open_keys(secret="two"), text) is None
    assert find(open_keys(), text) is None


def test_every_installation_has_a_secret_of_its_own(open_keys: Open, url: str) -> None:
    open_keys()
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        value = connection.execute(sa.text("SELECT value FROM secrets WHERE name = 'api_keys'")).scalar_one()
    engine.dispose()

    assert re.fullmatch("[0-9a-f]{64}", value)
