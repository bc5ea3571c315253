"""Whose word counts for where a request comes from."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.client_address import TrustedProxies, neighbourhood, parse_address

addresses = st.ip_addresses(v=4) | st.ip_addresses(v=6)
junk = st.text(st.characters(codec="latin-1"), max_size=80)


def test_without_trusted_proxies_the_header_is_ignored() -> None:
    assert TrustedProxies("").client("127.0.0.1", ["203.0.113.9"]) == "127.0.0.1"


def test_a_peer_that_is_no_proxy_is_not_believed() -> None:
    assert TrustedProxies("10.0.0.0/8").client("192.0.2.7", ["203.0.113.9"]) == "192.0.2.7"


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        (["203.0.113.9"], "203.0.113.9"),
        (["1.1.1.1, 203.0.113.9"], "203.0.113.9"),  # the left one came from the client
        (["203.0.113.9, 10.1.2.3"], "203.0.113.9"),  # two proxies of ours
        (["1.1.1.1", "203.0.113.9", "10.1.2.3"], "203.0.113.9"),  # a line from each
        (["10.9.9.9"], "10.9.9.9"),  # a client inside our own network
        (["203.0.113.9:51234"], "203.0.113.9"),
        (["[2001:db8::7]:443"], "2001:db8::7"),
        (["2001:DB8::0:7"], "2001:db8::7"),
        (["::ffff:203.0.113.9"], "203.0.113.9"),
        (["203.0.113.9, unknown"], "10.0.0.1"),  # the proxy does not know
        (["203.0.113.9, "], "10.0.0.1"),
        (["_hidden"], "10.0.0.1"),
        ([""], "10.0.0.1"),
        ([], "10.0.0.1"),
    ],
)
def test_a_trusted_proxy_is_believed_from_the_right(lines: list[str], client: str) -> None:
    assert TrustedProxies("10.0.0.0/8, ::1").client("10.0.0.1", lines) == client


def test_a_proxy_that_speaks_ipv4_over_ipv6_is_known_by_its_ipv4_network() -> None:
    assert TrustedProxies("10.0.0.0/8").client("::ffff:10.0.0.1", ["203.0.113.9"]) == "203.0.113.9"


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        TrustedProxies("10.0.0.0/99")


def test_only_the_nearest_hops_are_read() -> None:
    chain = ", ".join(["203.0.113.9", *["10.0.0.2"] * 100])

    assert TrustedProxies("10.0.0.0/8").client("10.0.0.1", [chain]) == "10.0.0.2"


@given(forged=st.lists(junk, max_size=5), client=addresses)
def test_nobody_can_forge_what_our_proxy_appends(forged: list[str], client: object) -> None:
    expected = str(parse_address(str(client)))
    proxies = TrustedProxies("fd00:1234::/32")

    assert proxies.client("fd00:1234::1", [*forged, str(client)]) == expected or expected.startswith("fd00:1234:")


@given(forged=st.lists(junk, max_size=5), peer=addresses)
def test_nobody_can_forge_past_a_peer_that_is_no_proxy(forged: list[str], peer: object) -> None:
    assert TrustedProxies("").client(str(peer), forged) == str(parse_address(str(peer)))


@given(junk, junk)
def test_garbage_is_tolerated(peer: str, line: str) -> None:
    assert TrustedProxies("0.0.0.0/0, ::/0").client(peer, [line, line])


@given(addresses, st.integers(0, 65535))
def test_an_address_is_read_with_and_without_a_port(address: object, port: int) -> None:
    plain = ipaddress.ip_address(str(address))
    with_port = f"[{plain}]:{port}" if plain.version == 6 else f"{plain}:{port}"

    assert parse_address(str(plain)) == parse_address(with_port) is not None


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_addresses_of_one_ipv6_subscriber_count_as_one(address: ipaddress.IPv6Address, host: int) -> None:
    other = ipaddress.IPv6Address(int(address) >> 64 << 64 | host)

    if parse_address(str(address)) == address and parse_address(str(other)) == other:
        assert neighbourhood(str(address)) == neighbourhood(str(other))


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("unknown", "unknown"),
    ],
)
def test_what_counts_as_one_client(address: str, counted_as: str) -> None:
    assert neighbourhood(address) == counted_as
