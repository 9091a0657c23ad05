from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.base.errors import InternalError
from tilework.base.extents import Extents

STEPS = st.lists(st.tuples(st.sampled_from(["allocate", "free", "claim"]), st.integers(0, 63), st.integers(0, 24)))


def first_fit(free: list[bool], size: int) -> int | None:
    for start in range(len(free) - size + 1):
        if all(free[start : start + size]):
            return start
    return None


@given(steps=STEPS, grain=st.sampled_from([1, 4]), start=st.sampled_from([0, 8]))
def test_it_is_what_a_list_of_free_bytes_would_be(steps: list[tuple[str, int, int]], grain: int, start: int) -> None:
    space = Extents(start, start + 64, grain)
    free = [False] * start + [True] * 64
    held: list[tuple[int, int]] = []
    for what, k, size in steps:
        whole = -(-size // grain) * grain
        if what == "allocate" and size:
            offset = space.allocate(size)
            assert offset == first_fit(free, whole)
            if offset is not None:
                free[offset : offset + whole] = [False] * whole
                held.append((offset, size))
        elif what == "free" and held:
            offset, size = held.pop(k % len(held))
            space.free(offset, size)
            whole = -(-size // grain) * grain
            free[offset : offset + whole] = [True] * whole
        elif what == "claim":
            offset = start + k // grain * grain
            found = [i for i in range(offset, min(offset + whole, start + 64)) if free[i]]
            assert space.claim(offset, size) == len(found)
            for i in found:
                free[i] = False
            held += [(i, 1) for i in found if i % grain == 0]
        assert space.free_bytes == sum(free)
        assert space.used_bytes == 64 - sum(free)
        assert space.top == max((i + 1 for i in range(start, start + 64) if not free[i]), default=start)
        runs = "".join("x" if f else " " for f in free).split()
        assert space.largest == max(map(len, runs), default=0)


def test_what_is_free_is_not_freed_again() -> None:
    space = Extents(0, 100)
    space.allocate(60)
    space.free(0, 30)
    for offset, size in [(0, 30), (10, 5), (29, 2), (59, 2), (0, 60)]:
        with pytest.raises(InternalError, match="free already"):
            space.free(offset, size)
    space.claim(0, 100)
    with pytest.raises(InternalError, match="of a range from 0 to 100"):
        space.free(90, 11)
    space.free(0, 100)
    assert space.free_bytes == 100


def test_nothing_takes_nothing() -> None:
    space = Extents(0, 16, 4)
    assert space.allocate(0) == 0
    space.free(0, 0)
    assert space.claim(0, 0) == 0
    assert (space.free_bytes, space.top, space.used_bytes) == (16, 0, 0)


def test_a_range_that_does_not_end_at_the_grain() -> None:
    assert Extents(0, 19, 4).allocate(17) is None
    assert Extents(0, 19, 4).allocate(16) == 0
    assert Extents(0, 3, 4).allocate(1) is None


def test_the_last_free_part() -> None:
    space = Extents(0, 20, 4)
    space.claim(8, 4)
    assert [space.claim_last(n) for n in (5, 100, 100, 100)] == [(12, 8), (0, 8), None, None]
    space.free(0, 20)
    assert space.claim_last(0) is None
