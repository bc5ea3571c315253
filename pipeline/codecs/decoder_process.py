"""One decoder process, seen from its owner."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs import decoder_wire as wire
from pipeline.codecs.decoder_limits import DecoderLimits
from pipeline.codecs.header import ImageHeader
from pipeline.codecs.unpack import DecodedImage
from pipeline.errors import InvalidImage

# All that a decoder gets of the environment beside sys.path: secrets have no place in a process that hostile files run.
_ENVIRONMENT = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TZ")
# One thread and one heap: more would count as the picture's memory. Large pages, and up to 32 MiB kept for the next
# picture: else a third of a 1080p JPEG's 15 ms goes into getting its memory, page by page.
_MEMORY = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": f"glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold={2**24}:glibc.malloc.trim_threshold={2**25}",
}
_START_S = 60.0


class DecoderKilled(Exception):
    """Somebody else ended the process (the kernel for want of memory, an operator): not the picture's doing."""


class DecoderProcess:
    """Unpacks one picture at a time. The kernel ends it with the thread that made it, so that thread must stay.

    A fresh interpreter rather than a fork: it is safe beside threads and carries neither torch nor Ray nor any secret
    of its owner.

    Raises:
        OSError: It does not start.
    """

    def __init__(self, limits: DecoderLimits) -> None:
        self.broken_by_a_picture = False
        self._connection, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        module = "pipeline.codecs.decoder_child"
        arguments = [str(theirs.fileno()), str(os.getpid()), limits.to_text()]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, *arguments],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    process_group=0,  # a Ctrl-C is for its owner
                )
        except BaseException:
            self._connection.close()
            raise
        self._connection.settimeout(_START_S)
        if self._receive() != wire.READY:
            self.end()
            raise OSError(f"A decoder process did not start: exit code {self._process.returncode}")
        self._connection.settimeout(limits.wall_s)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """Ends the process now and buries it."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def decode(self, data: bytes, header: ImageHeader) -> DecodedImage:
        """The picture of a file, in memory that no one else holds. Afterwards the process may be dead.

        Raises:
            InvalidImage: The file is broken, or decoding it crashed, or passed a limit.
            DecoderKilled: The process has been ended from outside.
            MemoryError: There is no memory for the picture.
        """
        room = wire.Room(header.width * header.height)
        memory = _reserve(room)
        try:
            reply = self._ask(data, header, memory)
            return self._read_picture(reply, room, memory, header)
        finally:
            os.close(memory)

    def _ask(self, data: bytes, header: ImageHeader, memory: int) -> bytes:
        request = wire.REQUEST.pack(header.format.encode(), header.width, header.height, len(data))
        try:
            file = wire.hold_bytes(data)
        except OSError as error:
            raise MemoryError from error
        try:
            socket.send_fds(self._connection, [request], [file, memory])
            reply = self._receive()
        except (BrokenPipeError, ConnectionResetError):
            reply = b""
        except BaseException:
            self.end()  # its answer must not be taken for that to the next question
            raise
        finally:
            os.close(file)
        if reply is None:
            self.end()
            self.broken_by_a_picture = True
            raise InvalidImage(f"Invalid image data: decoding the {header.format} file takes too long")
        if not reply:
            self.end()
            raise self._cause_of_death(header)
        return reply

    def _receive(self) -> bytes | None:
        """A message; nothing if the process died; None if it says nothing in time."""
        try:
            return self._connection.recv(wire.MAX_REPLY_BYTES)
        except TimeoutError:
            return None
        except ConnectionResetError:
            return b""

    def _cause_of_death(self, header: ImageHeader) -> Exception:
        code = -self._process.returncode
        if code in (signal.SIGKILL, signal.SIGTERM):
            return DecoderKilled()
        self.broken_by_a_picture = True
        if code == signal.SIGXCPU:
            return InvalidImage(f"Invalid image data: decoding the {header.format} file takes too long")
        return InvalidImage(f"Invalid image data: the {header.format} file is damaged or truncated")

    def _read_picture(self, reply: bytes, room: wire.Room, memory: int, header: ImageHeader) -> DecodedImage:
        status, height, width, has_alpha, profile_size = wire.REPLY.unpack_from(reply)
        if status == wire.REFUSED:
            raise InvalidImage(reply[wire.REPLY.size :].decode(errors="replace"))
        if height * width != room.pixel_count or profile_size > room.size - room.profile_start:
            self.end()
            self.broken_by_a_picture = True  # and taken over
            raise InvalidImage(f"Invalid image data: the {header.format} file is damaged or truncated")
        pixels = _map(memory, 0, 3 * room.pixel_count).reshape(height, width, 3)
        alpha = _map(memory, room.alpha_start, room.pixel_count).reshape(height, width) if has_alpha else None
        profile = wire.read_all(memory, profile_size, room.profile_start) or None
        if status == wire.UNPACKED_AND_LAST:
            self.end()
        return DecodedImage(pixels, alpha, profile, header.format)


def _environment() -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    path = os.pathsep.join(os.path.abspath(folder) for folder in sys.path)
    return {**inherited, **_MEMORY, "PYTHONPATH": path}


def _reserve(room: wire.Room) -> int:
    try:
        return wire.make_room(room)
    except OSError as error:
        raise MemoryError from error


def _map(memory: int, start: int, size: int) -> NDArray[np.uint8]:
    """The bytes as an array that is unmapped when nobody refers to it any more."""
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    return np.frombuffer(mmap.mmap(memory, size, flags=flags, offset=start), np.uint8)
