"""Where in S3-compatible storage the jobs' files are, and whether one may talk to it in the open."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_URL = re.compile(r"s3://([^/]*)(?:/(.*))?", re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_SEGMENT = re.compile(r"[A-Za-z0-9_=.-]{1,255}")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


@dataclass(frozen=True)
class ObjectLocation:
    """A bucket and the prefix of all keys in it, without slashes around.

    Attributes:
        plain_http: Whether the endpoint may be spoken to without TLS.
    """

    bucket: str
    prefix: str
    plain_http: bool

    @classmethod
    def parse(cls, url: str) -> ObjectLocation:
        """``s3://bucket/prefix``, at the endpoint that ``AWS_ENDPOINT_URL`` names.

        Raises:
            ValueError: One of them cannot be. The text does not repeat it: it could hold a password.
        """
        match = _URL.fullmatch(url.strip())
        if match is None or not _BUCKET.fullmatch(match[1]):
            raise ValueError("WORK_DIR: s3:// must be followed by the name of a bucket, as in s3://bucket/prefix.")
        prefix = (match[2] or "").strip("/")
        for segment in prefix.split("/") if prefix else []:
            if not _SEGMENT.fullmatch(segment) or segment in (".", ".."):
                raise ValueError("WORK_DIR: a prefix is made of letters, digits, _ = . - and single slashes.")
        return cls(match[1], prefix, _plain_http())

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


def _plain_http() -> bool:
    # obstore reads the same variables, in the same order.
    given = {name: os.environ[name] for name in _ENDPOINTS if name in os.environ}
    for name, endpoint in given.items():
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{name} must be an http:// or https:// address, or not be set at all.")
        if parts.scheme == "http" and not (_is_loopback(parts.hostname) or _allows_http()):
            raise ValueError(f"{name} has no TLS. Use https://, or set AWS_ALLOW_HTTP=true on a network you trust.")
    return any(endpoint.startswith("http://") for endpoint in given.values())


def _allows_http() -> bool:
    return os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes", "on")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
