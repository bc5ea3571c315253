"""Which URLs callbacks may go to. Asked when a job names one, and again before every try."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx

from deployments.callbacks.addresses import Network, parse_networks
from pipeline.config import Settings
from pipeline.errors import CallbackRejected

MAX_URL_LENGTH = 2000

_STANDARD_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(rb"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*|[0-9a-f:.]+")
"""A name with its labels, or an address; a URL may hold more, such as ``%00``."""


@dataclass(frozen=True)
class AllowedHost:
    """One entry of CALLBACK_HOSTS: a name, or every name under it; on the standard ports, or on the port it tells."""

    name: str
    with_subdomains: bool
    port: int | None

    @classmethod
    def parse(cls, entry: str) -> AllowedHost:
        """The entry ``hooks.example.com``, ``*.example.com`` or either with ``:port``. Raises ``ValueError``."""
        with_subdomains = entry.startswith("*.")
        try:
            url = httpx.URL(f"callback://{entry.removeprefix('*.')}")  # any scheme without a standard port
        except httpx.InvalidURL as error:
            raise ValueError(f"CALLBACK_HOSTS: {entry!r} is no host: {error}") from None
        name = url.raw_host.decode("ascii")
        if not name or "*" in name or url.userinfo or url.raw_path not in (b"", b"/"):
            raise ValueError(f"CALLBACK_HOSTS: {entry!r} is neither a host nor *.domain.")
        return cls(name, with_subdomains, url.port)

    def allows(self, url: httpx.URL) -> bool:
        """Whether this entry covers the host and the port of ``url``."""
        host = url.raw_host.decode("ascii")
        named = host.endswith(f".{self.name}") if self.with_subdomains else host == self.name
        if self.port is None:
            return named and url.port is None
        return named and (url.port or _STANDARD_PORTS[url.scheme]) == self.port


@dataclass(frozen=True)
class CallbackRules:
    """What the operator allows callbacks to do.

    Attributes:
        hosts: Whom they may call.
        secret: Key of their signatures; empty if there is none, and then no callback is sent.
        private_networks: What they may reach beside the internet.
    """

    hosts: tuple[AllowedHost, ...]
    secret: bytes
    private_networks: tuple[Network, ...]

    @classmethod
    def of(cls, settings: Settings) -> CallbackRules:
        """The rules in the CALLBACK_... settings. Raises ``ValueError`` for what cannot be read."""
        secret = settings.callback_secret.get_secret_value() if settings.callback_secret else ""
        entries = [entry.strip() for entry in settings.callback_hosts.split(",")]
        return cls(
            tuple(AllowedHost.parse(entry) for entry in entries if entry),
            _key(secret),
            parse_networks(settings.callback_private_networks),
        )

    def check(self, text: str) -> httpx.URL:
        """``text`` as a URL that may be called.

        Raises:
            CallbackRejected: It may not; the detail tells what is wrong with it, or what the operator must set.
        """
        missing = list(self._missing())
        if missing:
            raise CallbackRejected(f"This service sends no callbacks: its operator must set {' and '.join(missing)}.")
        if len(text) > MAX_URL_LENGTH:
            raise CallbackRejected(f"callback_url is longer than {MAX_URL_LENGTH} characters.")
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, UnicodeError):  # UnicodeError: half a surrogate pair
            raise CallbackRejected("callback_url is not a URL.") from None
        if url.scheme not in _STANDARD_PORTS or not _HOST.fullmatch(url.raw_host):
            raise CallbackRejected("callback_url must begin with https:// or http:// and name a host.")
        if url.userinfo:
            raise CallbackRejected("callback_url must not hold a user name or a password.")
        if not any(host.allows(url) for host in self.hosts):
            raise CallbackRejected(
                "callback_url names a host or port that is not allowed. The operator lists the allowed ones in"
                " CALLBACK_HOSTS (as name, *.domain or name:port).",
                host=url.host[:253],
            )
        return url

    def _missing(self) -> Iterator[str]:
        if not self.hosts:
            yield "CALLBACK_HOSTS"
        if not self.secret:
            yield "CALLBACK_SECRET"


def _key(secret: str) -> bytes:
    """The bytes of a secret: ``whsec_`` and base64, as Standard Webhooks write it, or any text."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        raise ValueError("CALLBACK_SECRET begins with whsec_ but is not base64 after it.") from None
