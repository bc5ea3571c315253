"""Errors of S3-compatible storage, told apart by what the server said.

obstore gives one class to most of them, and texts that name the endpoint, the bucket and sometimes a session token. So
its errors end here: callers get ours, the log gets the facts that help.
"""

from __future__ import annotations

import html
import re

from obstore import exceptions

from pipeline.errors import StorageError
from pipeline.jobs import storage_problems

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([^<]{1,100})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")
_REQUEST = re.compile(r"performing ([A-Z]+) (\S+)")
_CAUSE = re.compile(
    r'message: "([^"]{1,200})"|(TimedOut)|(invalid peer certificate[^"\n]{0,100})|(InvalidCertificate\(\s*\w+)'
)
_BUSY = {429, 500, 502, 503, 504}
_UNREACHABLE = ("error sending request", "body error")
_CREDENTIALS = ("169.254.169.254", "169.254.170.2", "/latest/api/token")


def is_missing_file(error: Exception) -> bool:
    """Whether the file is what is missing; without a bucket, obstore says the same."""
    return isinstance(error, FileNotFoundError) and _first(_CODE, error) != "NoSuchBucket"


def is_replaced(error: Exception) -> bool:
    return isinstance(error, exceptions.PreconditionError)


def is_outside(error: Exception) -> bool:
    """Whether the range begins behind the file's last byte."""
    return _first(_STATUS, error) == "416"


def problem(error: Exception) -> StorageError:
    """The error in our words. Raise it ``from None``: what it stands for must not be printed."""
    status, code = int(_first(_STATUS, error) or 0), _first(_CODE, error) or ""
    if status == 507 or "Quota" in code or code.endswith("StorageFull"):
        return storage_problems.full(reason(error))
    if status in _BUSY or (not status and any(words in str(error) for words in _UNREACHABLE)):
        return storage_problems.unavailable(reason(error))
    return storage_problems.refused(reason(error))


def reason(error: Exception) -> str:
    """What went wrong, for an operator: request, status, code and message; never what was sent with the request."""
    request = _REQUEST.search(str(error))
    asked = f"{request[1]} {request[2].split('?')[0]}" if request else "request"
    if any(address in asked for address in _CREDENTIALS):
        return (
            "there are no credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and no role gives any)"
        )
    status, code, message = (_first(pattern, error) for pattern in (_STATUS, _CODE, _MESSAGE))
    if status:
        said = " ".join(part for part in (status, code, f"({html.unescape(message)})" if message else "") if part)
        return f"{asked}: {said}"
    if cause := _CAUSE.search(str(error)):
        return f"{asked}: {next(filter(None, cause.groups()))}"
    return f"{asked}: {str(error).splitlines()[0][:300]}"


def _first(pattern: re.Pattern[str], error: Exception) -> str | None:
    found = pattern.search(str(error))
    return found[1] if found else None
