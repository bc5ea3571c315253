"""Where a request comes from, when proxies stand in front: only what trusted ones say is believed."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_MOST_HOPS = 32
_WITH_PORT = re.compile(r"\[([^\[\]]*)\](?::\d{1,5})?|([^:\s]*):\d{1,5}")


class TrustedProxies:
    """The proxies whose ``X-Forwarded-For`` is believed.

    Args:
        networks: CIDRs, separated by commas; none believes nobody.
    """

    def __init__(self, networks: str = "") -> None:
        texts = filter(None, map(str.strip, networks.split(",")))
        self._networks = tuple(ipaddress.ip_network(text, strict=False) for text in texts)

    def client(self, peer: str, forwarded_for: Sequence[str] = ()) -> str:
        """The address of whoever asks.

        Every proxy appends the address it was spoken to from, so the header is read from the right, for as long as
        trusted proxies wrote it: the first other address is the client's. What stands left of it anybody may have sent.

        Args:
            peer: The address on the other end of the connection.
            forwarded_for: The request's ``X-Forwarded-For`` lines, in order.
        """
        client = parse_address(peer)
        if client is None:
            return peer or "unknown"
        hops = [hop for line in forwarded_for for hop in line.split(",")]
        for hop in reversed(hops[-_MOST_HOPS:]):
            if not self._trusts(client):
                break
            said = parse_address(hop)
            if said is None:  # a trusted proxy does not know; it answers for it itself
                break
            client = said
        return str(client)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def parse_address(text: str) -> Address | None:
    """The address in ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1``, ``[2001:db8::1]:80``; None in anything else.

    An IPv4 address inside an IPv6 one (``::ffff:192.0.2.1``) is that IPv4 address; a zone (``%eth0``) is dropped.
    """
    text = text.strip().strip('"')
    with_port = _WITH_PORT.fullmatch(text)
    if with_port:
        text = with_port[1] if with_port[1] is not None else with_port[2]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def neighbourhood(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 one, which one subscriber has whole."""
    parsed = parse_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address
