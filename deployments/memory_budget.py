"""How much memory the requests of one ingress replica may hold together, counted before it is taken."""

from __future__ import annotations

from types import TracebackType
from typing import cast

from starlette.requests import Request

from pipeline.codecs import ImageHeader
from pipeline.errors import Overloaded

MIB = 1024 * 1024

REMOVAL_BYTES_PER_PIXEL = 26
"""Peak of a removal, refinement of the alpha included, measured at 24 and 33 megapixels."""

UPLOAD_BYTES_PER_PIXEL = 10
"""Peak of decoding and shrinking: 6 of a JPEG, 8 of a PNG, and the file made of it."""


class MemoryBudget:
    """Bytes that requests may hold at once.

    A request that alone is larger than all of it passes while nothing else is held: it would never pass otherwise, and
    what a single one may be has limits of its own.

    Attributes:
        total: Bytes there are.
        held: Bytes that are taken.
    """

    def __init__(self, total_mb: float) -> None:
        self.total = int(total_mb * MIB)
        self.held = 0

    def hold(self, size: int) -> HeldMemory:
        """``size`` bytes, until they are released. Raises ``Overloaded`` if there is no room now."""
        memory = HeldMemory(self)
        memory.grow(size)
        return memory


class HeldMemory:
    """What one request holds; a context manager, released exactly once however often that is asked.

    Attributes:
        size: Bytes.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._released = False
        self.size = 0

    def grow(self, size: int) -> None:
        """``size`` bytes more. Raises ``Overloaded`` if there is no room now, and holds what it held before."""
        budget = self._budget
        others = budget.held - self.size
        if size and (self._released or (others > 0 and budget.held + size > budget.total)):
            raise Overloaded("The service has no memory left for this request. Try again in a moment.", retry_after=2)
        self.size += size
        budget.held += size

    def shrink(self, size: int) -> None:
        """Gives back what is beyond ``size`` bytes."""
        if self.size > size:
            self._budget.held -= self.size - size
            self.size = size

    def release(self) -> None:
        """Everything, for good."""
        if not self._released:
            self._released = True
            self._budget.held -= self.size
            self.size = 0

    def __enter__(self) -> HeldMemory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()


def hold_pixels(request: Request, header: ImageHeader, bytes_per_pixel: int) -> None:
    """Counts the pixels that are about to be unpacked, until the request ends.

    Call it between ``codecs.read_header`` and ``codecs.decode_image``.

    Raises:
        Overloaded: There is no room for them now.
    """
    memory = cast(HeldMemory | None, request.scope.get("state", {}).get("memory"))
    if memory is not None:
        memory.grow(header.width * header.height * bytes_per_pixel)
