from __future__ import annotations

from itertools import pairwise
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.plan import passes
from tilework.plan.blocks import Chunks, split_sizes
from tilework.plan.passes import rechunk_passes
from tilework.testing.strategies import two_chunkings


def grids(*sizes: tuple[int, int]) -> Chunks:
    return tuple(split_sizes(n, size) for n, size in sizes)


def block_bytes(chunks: Chunks, itemsize: int) -> int:
    return itemsize * prod(axis.largest for axis in chunks)


@given(two_chunkings(max_side=400), st.integers(1, 16), st.integers(1, 100_000))
def test_the_way_leads_there_in_blocks_that_fit(two: tuple[Chunks, Chunks], itemsize: int, limit: int) -> None:
    have, want = two
    way = rechunk_passes(have, want, itemsize, limit)
    assert way[-1] == want
    most = max(limit, block_bytes(have, itemsize), block_bytes(want, itemsize))
    for chunks in way:
        assert [axis.total for axis in chunks] == [axis.total for axis in have]
        assert block_bytes(chunks, itemsize) <= most
    assert all(a != b for a, b in pairwise([have, *way])) or way == (want,)


@pytest.mark.parametrize("limit", [100_000, 1_000_000, 10_000_000])
@pytest.mark.parametrize("n", [1000, 10_000, 100_000])
def test_rows_to_columns_is_linear_in_the_blocks(n: int, limit: int) -> None:
    """One pass would move n * 1000 pieces of one element each."""
    rows, columns = grids((n, 1), (1000, 1000)), grids((n, n), (1000, 1))
    way = rechunk_passes(rows, columns, 8, limit)
    n_bytes = 8 * n * 1000
    moved = sum(passes._pieces(a, b) for a, b in pairwise([rows, *way]))
    small = n_bytes / passes.SMALL_PIECE
    assert len(way) <= passes.MOST_BETWEEN + 3
    assert moved <= n + 1000 + (len(way) - 1) * max(small, passes.FEW_PIECES)
    assert moved < n * 1000 / 20


def test_large_pieces_take_one_pass() -> None:
    have, want = grids((4000, 40), (500, 500), (500, 500)), grids((4000, 4000), (500, 50), (500, 50))
    assert rechunk_passes(have, want, 4, 50_000_000) == (want,)


def test_a_small_array_takes_one_pass() -> None:
    assert rechunk_passes(grids((100, 1), (100, 100)), grids((100, 100), (100, 1)), 8, 10) == (
        grids((100, 100), (100, 1)),
    )
