"""A connection to exactly the address that was checked, under the name that was asked for.

Between a check of a name and a second look-up by the HTTP client the answer could change to a private address (DNS
rebinding). Here the name is resolved once; Host, SNI and the certificate check keep it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import httpx

from deployments.callbacks.addresses import Address, Network, may_reach

Resolve: TypeAlias = Callable[[str], Awaitable[Sequence[Address]]]
"""The addresses of a name. Raises ``OSError`` if it has none."""

MAX_ADDRESSES = 3
"""Addresses of one name that are tried."""


class PrivateAddress(Exception):
    """A name leads somewhere that callbacks must not reach."""


class CheckedTransport(httpx.AsyncBaseTransport):
    """Sends each request on a connection of its own, to an address that callbacks may reach.

    Raises ``PrivateAddress`` unless every address of the host may be reached: a name with one public and one private
    address would be a matter of luck.
    """

    def __init__(
        self, resolve: Resolve, private_networks: Sequence[Network], *, ssl_context: ssl.SSLContext | None = None
    ) -> None:
        self._resolve = resolve
        self._private_networks = private_networks
        self._inner = httpx.AsyncHTTPTransport(
            verify=ssl_context or httpx.create_ssl_context(),
            trust_env=False,
            # A connection is found again by its address: under another name its certificate was never checked.
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        try:
            addresses = await self._resolve(host)
        except (OSError, UnicodeError) as error:  # UnicodeError: no name of the DNS
            raise httpx.ConnectError(f"The name was not found: {error}", request=request) from error
        if not all(may_reach(address, self._private_networks) for address in addresses):
            raise PrivateAddress("The name leads to an address that is not public; see CALLBACK_PRIVATE_NETWORKS.")
        failure: httpx.TransportError = httpx.ConnectError("The name has no address.", request=request)
        for address in addresses[:MAX_ADDRESSES]:
            try:
                return await self._inner.handle_async_request(_at(request, address, host))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure

    async def aclose(self) -> None:
        await self._inner.aclose()


def _at(request: httpx.Request, address: Address, host: str) -> httpx.Request:
    """The request for ``address``: its Host header stays, and TLS still asks for ``host``."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=str(address)),
        headers=request.headers,
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


class SystemResolver:
    """Asks the operating system for names, in threads of its own: a name server that hangs holds up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="names")

    async def __call__(self, host: str) -> list[Address]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, _addresses, host)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str) -> list[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(sockaddr[0])) for *_, sockaddr in found]
