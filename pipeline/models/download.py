"""Fetches one pinned file: resumes, tries mirrors, and gives up soon where there is no connection.

Bytes gather in ``<name>.part`` and get their final name only when size and SHA-256 are the pinned ones. Every address
must serve the very same bytes, so a half file may be continued from any of them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx

from pipeline.models.files import part_of, publish

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of bytes that are there."""

MAX_INTERRUPTIONS = 20  # of one address
WORTH_BYTES = 64 << 10  # that an interrupted transfer must have brought for its address to be asked again
SPARE_BYTES = 64 << 20  # that a download leaves free
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Patience:
    """How long a download waits, in seconds.

    Attributes:
        answer_s: For one address to answer: name lookup, connection, redirects and headers.
        stall_s: Between two pieces of a file.
        silence_s: Without one new byte, over all addresses. With the defaults a machine without a connection gives up
            within ``silence_s + answer_s``, 14 s.
        pause_s: Before a broken transfer is taken up again.
    """

    answer_s: float = 4
    stall_s: float = 6
    silence_s: float = 10
    pause_s: float = 1


class DownloadError(Exception):
    """No address gave the pinned bytes. For whoever runs the download, so its text may hold addresses.

    Attributes:
        problems: Per address, what went wrong last.
        offline: Not one of them answered.
        advice: What to do about it; may have several lines.
    """

    def __init__(self, problems: Sequence[tuple[str, str]], *, offline: bool, advice: str = "") -> None:
        super().__init__("\n".join(f"{url}: {problem}" for url, problem in problems))
        self.problems = tuple(problems)
        self.offline = offline
        self.advice = advice


def download(
    urls: Sequence[str],
    path: Path,
    *,
    sha256: str,
    size_bytes: int,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> None:
    """Puts the file with that size and hash at ``path``; what was there stays until then.

    Proxy and certificates are those of the environment (``HTTPS_PROXY``, ``NO_PROXY``, ``SSL_CERT_FILE``). One process
    at a time may fetch the same file (``files.only_writer``).

    Raises:
        DownloadError: No address gave it. What came so far stays, to be resumed.
        OSError: The folder cannot be written, or has no room.
    """
    patience = patience or Patience()
    problems: list[tuple[str, _Problem]] = []
    with contextlib.closing(_Part(part_of(path), sha256, size_bytes, progress)) as part:
        _require_room(path.parent, size_bytes - part.size)
        for url in urls:
            if problem := _fetch(url, part, patience):
                problems.append((url, problem))
            if part.is_right():
                break
    if part.is_right():
        publish(part.path, path)
        return
    if part.size == 0:
        part.path.unlink()
    offline = not any(problem.answered for _, problem in problems)
    raise DownloadError([(url, str(problem)) for url, problem in problems], offline=offline)


def is_reachable(urls: Sequence[str], timeout_s: float) -> bool:
    """Whether one of the addresses, all asked at once, gives an answer in time; it need not be the file."""
    answers: list[Future[tuple[httpx.Client, httpx.Response]]] = [Future() for _ in urls]
    for url, answer in zip(urls, answers, strict=True):
        threading.Thread(target=_answer, args=(answer, url, 0, timeout_s, timeout_s), daemon=True).start()
    reachable = False
    with contextlib.suppress(TimeoutError):
        reachable = any(answer.exception() is None for answer in as_completed(answers, timeout_s))
    for answer in answers:
        if not answer.cancel() and answer.exception() is None:
            client, response = answer.result()
            response.close()
            client.close()
    return reachable


class _Problem(Exception):
    """Why an address did not give the file.

    Attributes:
        answered: Whether somebody was there.
        again: Whether the same address should be asked once more.
    """

    def __init__(self, text: str, *, answered: bool = True, again: bool = False) -> None:
        super().__init__(text)
        self.answered = answered
        self.again = again


class _Part:
    """A file that grows, hashed as it does."""

    def __init__(self, path: Path, sha256: str, size_bytes: int, progress: Progress | None) -> None:
        self.path = path
        self.size = 0
        self.size_bytes = size_bytes
        self._sha256 = sha256
        self._digest = hashlib.sha256()
        self._progress = progress
        self._file = path.open("r+b" if path.exists() else "w+b")
        while chunk := self._file.read(_CHUNK_BYTES):
            self._digest.update(chunk)
            self.size += len(chunk)
        if self.size > size_bytes or (self.size == size_bytes and not self.is_right()):
            self.restart()
        self.last_news = time.monotonic()
        self._tell()

    def close(self) -> None:
        self._file.close()

    def is_right(self) -> bool:
        """Whether it is all there, bit for bit."""
        return self.size == self.size_bytes and self._digest.hexdigest() == self._sha256

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.update(chunk)
        self.size += len(chunk)
        self._tell()

    def restart(self) -> None:
        """Forgets every byte."""
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self.size = 0
        self._tell()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.size)


def _fetch(url: str, part: _Part, patience: Patience) -> _Problem | None:
    """Continues ``part`` from one address until it is right; otherwise what stood in the way."""
    problem = None
    for attempt in range(MAX_INTERRUPTIONS):
        if part.is_right():
            return None
        if attempt:
            time.sleep(patience.pause_s)
        if time.monotonic() - part.last_news >= patience.silence_s:
            return problem or _Problem("not tried, the others took too long", answered=False)
        try:
            _transfer(url, part, patience)
        except _Problem as found:
            problem = found
            if not problem.again:
                return problem
    return None if part.is_right() else problem


def _transfer(url: str, part: _Part, patience: Patience) -> None:
    """Appends to ``part`` what ``url`` has beyond it. Raises ``_Problem`` unless ``part`` is right then."""
    started_at = part.size
    left_s = max(0.01, patience.silence_s - (time.monotonic() - part.last_news))
    client, response = _ask(url, started_at, min(patience.answer_s, left_s), min(patience.stall_s, left_s))
    try:
        skip = _bytes_to_skip(response, started_at, part.size_bytes)
        for chunk in response.iter_raw():
            part.last_news = time.monotonic()
            fresh = chunk[skip:]
            skip -= len(chunk) - len(fresh)
            if part.size + len(fresh) > part.size_bytes:
                part.restart()
                raise _Problem("it sends more bytes than the file has")
            part.append(fresh)
    except (httpx.TransportError, httpx.StreamError) as error:
        raise _Problem(
            f"the transfer broke off after {part.size} of {part.size_bytes} bytes ({type(error).__name__})",
            again=part.size - started_at >= WORTH_BYTES,
        ) from error
    finally:
        response.close()
        client.close()
    if part.size < part.size_bytes:
        raise _Problem(
            f"it ended after {part.size} of {part.size_bytes} bytes", again=part.size - started_at >= WORTH_BYTES
        )
    if not part.is_right():
        part.restart()
        # The fault may lie in the bytes that were there before.
        raise _Problem("its bytes are not the pinned ones (SHA-256 differs)", again=started_at > 0)


def _bytes_to_skip(response: httpx.Response, start: int, size_bytes: int) -> int:
    """How many bytes of the body are there already. Raises ``_Problem`` if the body cannot be the file's rest."""
    status = response.status_code
    if status == httpx.codes.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != start:
            raise _Problem("it sends another range than asked for")
        if found[2] not in ("*", str(size_bytes)):
            raise _Problem(f"its file has {found[2]} bytes instead of {size_bytes}")
        return 0
    if status != httpx.codes.OK:
        raise _Problem(f"it answers {status} {response.reason_phrase}".rstrip())
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _Problem("it answers with a web page instead of the file")
    length = response.headers.get("Content-Length", str(size_bytes))
    if length != str(size_bytes):
        raise _Problem(f"its file has {length} bytes instead of {size_bytes}")
    return start  # it does not know ranges: everything comes once more


def _ask(url: str, start: int, answer_s: float, stall_s: float) -> tuple[httpx.Client, httpx.Response]:
    """The answer of ``url``, its body still unread. Raises ``_Problem`` if there is none within ``answer_s``."""
    answer: Future[tuple[httpx.Client, httpx.Response]] = Future()
    # A thread, because a name lookup can take minutes and has no time limit of its own.
    threading.Thread(target=_answer, args=(answer, url, start, answer_s, stall_s), daemon=True).start()
    try:
        return answer.result(answer_s)
    except TimeoutError:
        if answer.cancel():
            raise _Problem(f"no answer within {answer_s:.0f} s", answered=False) from None
        return answer.result()  # it came this very moment


def _answer(
    answer: Future[tuple[httpx.Client, httpx.Response]], url: str, start: int, answer_s: float, stall_s: float
) -> None:
    """Fills ``answer``, or cleans up if nobody waits for it any more."""
    problem = _Problem("no answer", answered=False)
    client: httpx.Client | None = None
    response: httpx.Response | None = None
    try:
        # trust_env, httpx's default, is said because proxies depend on it.
        client = httpx.Client(trust_env=True, follow_redirects=True, timeout=httpx.Timeout(stall_s, connect=answer_s))
        # Compressed, neither the length nor the ranges would be the file's.
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        response = client.send(client.build_request("GET", url, headers=headers), stream=True)
    except httpx.TimeoutException:
        problem = _Problem(f"no answer within {answer_s:.0f} s", answered=False)
    except httpx.TransportError as error:
        problem = _Problem(f"no connection ({error})", answered=False)
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        # Too many redirects, or proxy and certificate settings that cannot be used.
        problem = _Problem(f"{type(error).__name__}: {error}")
    waited_for = answer.set_running_or_notify_cancel()
    if client is not None and response is not None and waited_for:
        answer.set_result((client, response))
        return
    if response is not None:
        response.close()
    if client is not None:
        client.close()
    if waited_for:
        answer.set_exception(problem)


def _require_room(folder: Path, needed_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        text = f"{needed_bytes / 1e6:.0f} MB are still to come, and only {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, text, str(folder))
