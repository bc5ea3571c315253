"""What one picture may take of a decoder process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class DecoderLimits:
    """What one picture may take. The kernel enforces all but ``wall_s``, which the process's owner does.

    Attributes:
        cpu_s: Whole seconds of computing. Of the kinds measured at 33 megapixels the slowest takes 3 s.
        wall_s: Seconds until an answer, on however busy a machine.
        memory_mb: MiB beside the process as it stands, for any picture.
        memory_bytes_per_pixel: More, by its size. Of the kinds measured at 33 megapixels the hungriest, an animated
            WebP that is turned, needs 27.
        growth_mb: MiB that a process may have grown by since its first picture; then a fresh one takes its place.
    """

    cpu_s: int = 10
    wall_s: float = 30.0
    memory_mb: float = 64.0
    memory_bytes_per_pixel: float = 32.0
    growth_mb: float = 256.0

    def memory_bytes(self, pixel_count: int, file_size: int) -> int:
        # Parts of the file are copied up to four times: the file, its picture without metadata, the decoder's stream.
        return int(self.memory_mb * 2**20 + self.memory_bytes_per_pixel * pixel_count + 4 * file_size)

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> DecoderLimits:
        return cls(**json.loads(text))
