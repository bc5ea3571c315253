"""What a decoder process and its owner say to each other: small messages on a socket, pixels in shared memory.

The memory is anonymous (memfd): it has no name that could be left behind, and is gone with the last process that holds
it. Its size is sealed before the decoder sees it, so no decoder can make its owner read beyond the end.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from dataclasses import dataclass

from pipeline.codecs.png_file import MAX_PROFILE_BYTES

# Format, width and height as the header says, bytes of the file. The file and the room for the picture come as
# descriptors beside it.
REQUEST = struct.Struct("<8sIIQ")

# Status, height and width upright, whether there is an alpha, bytes of the colour profile. A refusal's text follows.
REPLY = struct.Struct("<BII?I")
UNPACKED, REFUSED, UNPACKED_AND_LAST = range(3)
MAX_REPLY_BYTES = 1024

READY = b"ready"

_SEAL_SIZE = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Room:
    """Where the parts of a picture of ``pixel_count`` pixels lie in the memory it comes back in, in bytes.

    Each starts a page, so that it can be mapped alone; what is not written takes no memory.
    """

    pixel_count: int

    @property
    def alpha_start(self) -> int:
        return _next_page(3 * self.pixel_count)

    @property
    def profile_start(self) -> int:
        return _next_page(self.alpha_start + self.pixel_count)

    @property
    def size(self) -> int:
        return self.profile_start + MAX_PROFILE_BYTES


def _next_page(position: int) -> int:
    return -(-position // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY


def hold_bytes(data: bytes) -> int:
    """Descriptor of memory that holds ``data``, and that nobody can change."""
    memory = _new_memory()
    try:
        write_all(memory, data, 0)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEAL_SIZE | fcntl.F_SEAL_WRITE)
    except BaseException:
        os.close(memory)
        raise
    return memory


def make_room(room: Room) -> int:
    """Descriptor of empty memory for a picture, of a size that nobody can change."""
    memory = _new_memory()
    try:
        os.ftruncate(memory, room.size)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEAL_SIZE)
    except BaseException:
        os.close(memory)
        raise
    return memory


def _new_memory() -> int:
    return os.memfd_create("clearcut-picture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def write_all(memory: int, data: bytes | memoryview, position: int) -> None:
    """Writes without mapping: the pages need not be cleared first, which takes as long as copying."""
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(memory, rest, position)
        position += written
        rest = rest[written:]


def read_all(memory: int, size: int, position: int = 0) -> bytes:
    data = os.pread(memory, size, position)
    if len(data) != size:
        raise OSError("the shared memory is shorter than said")
    return data
