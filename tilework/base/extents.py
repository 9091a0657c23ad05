"""Which parts of a range of addresses are free: of a file, or of shared memory. Pure bookkeeping."""

from __future__ import annotations

from bisect import bisect

from tilework.base.errors import InternalError


class Extents:
    """Free addresses from ``start`` to ``stop``. At first all are free.

    The lowest place that is large enough is taken (first fit): what is in use stays together at low addresses, which
    have been used before, and what lies behind it can be given back to the system.

    Parameters
    ----------
    start, stop
        The range; ``start`` is a multiple of ``grain``.
    grain
        Sizes are rounded up to a multiple of this, so that all extents begin at one.

    Examples
    --------
    >>> space = Extents(0, 100)
    >>> space.allocate(30), space.allocate(30), space.allocate(50)
    (0, 30, None)
    >>> space.free(0, 30)
    >>> space.allocate(20), space.free_bytes, space.top
    (0, 50, 60)
    """

    def __init__(self, start: int, stop: int, grain: int = 1) -> None:
        self.start, self.stop, self.grain = start, start + (stop - start) // grain * grain, grain
        # Free (start, stop), ascending, never empty and never touching each other.
        self._gaps = [(self.start, self.stop)] if self.start < self.stop else []
        self.free_bytes = self.stop - self.start

    @property
    def top(self) -> int:
        """Where what is in use ends: all behind it is free."""
        return self._gaps[-1][0] if self._gaps and self._gaps[-1][1] == self.stop else self.stop

    @property
    def used_bytes(self) -> int:
        """Bytes that are not free, with what sizes were rounded up by."""
        return self.stop - self.start - self.free_bytes

    @property
    def largest(self) -> int:
        """Bytes of the largest free part: no more can be allocated at once."""
        return max((stop - start for start, stop in self._gaps), default=0)

    def rounded(self, size: int) -> int:
        """The bytes that an extent of this size takes."""
        return -(-size // self.grain) * self.grain

    def allocate(self, size: int) -> int | None:
        """The offset of ``size`` bytes that were free; None if there are none."""
        size = self.rounded(size)
        for i, (start, stop) in enumerate(self._gaps):
            if stop - start >= size:
                if stop - start > size:
                    self._gaps[i] = (start + size, stop)
                else:
                    del self._gaps[i]
                self.free_bytes -= size
                return start
        return None

    def free(self, offset: int, size: int) -> None:
        """Give back what was allocated, as a whole or a part that begins and ends at the grain."""
        size = self.rounded(size)
        if not size:
            return
        start, stop = offset, offset + size
        gaps = self._gaps
        i = bisect(gaps, (start, stop))
        before, behind = i > 0 and gaps[i - 1][1] >= start, i < len(gaps) and gaps[i][0] <= stop
        if (before and gaps[i - 1][1] > start) or (behind and gaps[i][0] < stop):
            raise InternalError(f"bytes {start} to {stop} are freed, but some of them are free already")
        if start < self.start or stop > self.stop:
            raise InternalError(f"bytes {start} to {stop} are freed, of a range from {self.start} to {self.stop}")
        if behind:
            stop = gaps.pop(i)[1]
        if before:
            i -= 1
            start = gaps.pop(i)[0]
        gaps.insert(i, (start, stop))
        self.free_bytes += size

    def claim(self, offset: int, size: int) -> int:
        """Take what is free of these bytes; return how many that are."""
        start, stop = offset, offset + self.rounded(size)
        if start == stop:
            return 0
        gaps = self._gaps
        first = bisect(gaps, (start, start))
        if first and gaps[first - 1][1] > start:
            first -= 1
        taken, left, last = 0, [], first
        while last < len(gaps) and gaps[last][0] < stop:
            low, high = gaps[last]
            taken += min(high, stop) - max(low, start)
            left += [(low, start)] if low < start else []
            left += [(stop, high)] if high > stop else []
            last += 1
        gaps[first:last] = left
        self.free_bytes -= taken
        return taken

    def claim_last(self, size: int) -> tuple[int, int] | None:
        """Take the last free part, of ``size`` bytes at most; return where it is and its size. None: none is free."""
        if not self._gaps or size <= 0:
            return None
        start, stop = self._gaps[-1]
        offset = max(start, stop - self.rounded(size))
        self.claim(offset, stop - offset)
        return offset, stop - offset
