"""The program of a decoder process: unpacks one picture after the other until its owner is gone.

    python -m pipeline.codecs.decoder_child SOCKET OWNER LIMITS

It imports what decoding needs and nothing else, and may die at any time: its owner starts another.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import time
import warnings

import cv2
import numpy as np

from pipeline.codecs import decoder_wire as wire
from pipeline.codecs.decoder_limits import DecoderLimits
from pipeline.codecs.header import ImageHeader
from pipeline.codecs.unpack import DecodedImage, unpack_image
from pipeline.errors import ImageRejected

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    _end_with(int(sys.argv[2]))
    limits = DecoderLimits.from_text(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)  # a thread's stack and heap would count as the picture's
    connection.send(wire.READY)
    _silence()
    first_size = None
    while True:
        message, descriptors, _, _ = socket.recv_fds(connection, wire.REQUEST.size, 2)
        if not message:
            return
        format_name, width, height, size = wire.REQUEST.unpack(message)
        header = ImageHeader(format_name.rstrip(b"\0").decode(), width, height)
        _limit(header, size, limits)
        file, room = descriptors
        try:
            reply = _unpack_into(room, wire.read_all(file, size), header)
        finally:
            os.close(file)
            os.close(room)
        first_size = first_size or _virtual_bytes()
        if reply[0] == wire.UNPACKED and _virtual_bytes() > first_size + limits.growth_mb * 2**20:
            reply = bytes([wire.UNPACKED_AND_LAST]) + reply[1:]
        connection.send(reply)


def _end_with(owner: int) -> None:
    """Has the kernel kill this process when the thread that started it ends, however it ends."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.getppid() != owner:  # it ended before
        sys.exit()


def _silence() -> None:
    """What libraries say of broken files stays out of the service's log; errors while starting do not."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _limit(header: ImageHeader, file_size: int, limits: DecoderLimits) -> None:
    memory = _virtual_bytes() + limits.memory_bytes(header.width * header.height, file_size)
    resource.setrlimit(resource.RLIMIT_AS, (memory, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 1 + limits.cpu_s, resource.RLIM_INFINITY))


def _virtual_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _unpack_into(room: int, data: bytes, header: ImageHeader) -> bytes:
    """The reply to the owner; the picture lies in ``room``."""
    try:
        picture = unpack_image(data, header)
        return _write_picture(room, picture)
    except ImageRejected as error:
        detail = error.detail
    except MemoryError:
        detail = "Invalid image data: decoding the file takes too much memory"
    return wire.REPLY.pack(wire.REFUSED, 0, 0, False, 0) + detail.encode()[: wire.MAX_REPLY_BYTES - wire.REPLY.size]


def _write_picture(memory: int, picture: DecodedImage) -> bytes:
    height, width = picture.pixels.shape[:2]
    room = wire.Room(height * width)
    profile = picture.icc_profile or b""
    wire.write_all(memory, np.ascontiguousarray(picture.pixels).data, 0)
    if picture.alpha is not None:
        wire.write_all(memory, np.ascontiguousarray(picture.alpha).data, room.alpha_start)
    wire.write_all(memory, profile, room.profile_start)
    return wire.REPLY.pack(wire.UNPACKED, height, width, picture.alpha is not None, len(profile))


if __name__ == "__main__":
    main()
