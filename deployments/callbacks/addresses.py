"""Which addresses a callback may reach: those of the internet, and what the operator lists."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""The only part of IPv6 that is handed out; ``is_global`` takes much of the rest for public, ``::127.0.0.1`` too."""

_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637, younger than Python 3.11


def may_reach(address: Address, private_networks: Sequence[Network]) -> bool:
    """Whether ``address`` is public, or lies in one of ``private_networks``."""
    end = destination(address)
    return is_public(end) or any(address in network or end in network for network in private_networks)


def is_public(address: Address) -> bool:
    """Whether ``address`` belongs to one machine somewhere on the internet."""
    if isinstance(address, ipaddress.IPv6Address) and (address not in _GLOBAL_UNICAST or address in _DOCUMENTATION):
        return False
    return address.is_global and not address.is_multicast


def destination(address: Address) -> Address:
    """Where packets to ``address`` end: an IPv4 address inside an IPv6 one is looked through."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def parse_networks(text: str) -> tuple[Network, ...]:
    """The networks of a list like ``10.1.0.0/16, fd00::/8``. Raises ``ValueError`` for anything else."""
    return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
