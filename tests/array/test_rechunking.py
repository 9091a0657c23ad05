"""Rechunking: what the chunks become, and that no value changes. The rules are tested with the arithmetic of chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base import config
from tilework.base.errors import ChunkError, PlanError, UnsupportedError


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ({0: 4}, ((4, 4, 2), (5, 5, 5))),
        ({-1: -1, 0: None}, ((5, 5), (15,))),
        ((None, 10), ((5, 5), (10, 5))),
        (6, ((6, 4), (6, 6, 3))),
        (((3, 7), (15,)), ((3, 7), (15,))),
        ("400B", ((5, 5), (10, 5))),
    ],
)
def test_ways_to_write_chunks(chunks, expected):
    x = np.arange(150).reshape(10, 15)
    y = ta.from_array(x, chunks=5).rechunk(chunks)
    assert y.chunks == expected
    np.testing.assert_array_equal(y.compute(), x)


def test_automatic_chunks_follow_settings_and_limits():
    x = ta.ones((100, 100), chunks=10)
    with config.set(chunk_size="8kB"):
        assert ta.rechunk(x).chunksize == (30, 30)
    assert ta.rechunk(x, "auto", block_size_limit=8 * 400).chunksize == (20, 20)
    assert ta.rechunk(x, {0: "auto"}, block_size_limit=8 * 400).chunksize == (40, 10)


def test_balanced_chunks():
    assert ta.ones(1000, chunks=400).rechunk(400, balance=True).chunks == ((500, 500),)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_values_stay(data):
    shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3))
    x = np.arange(np.prod(shape)).reshape(shape)

    def chunks():
        return tuple(data.draw(st.integers(1, n)) for n in shape)

    y = ta.from_array(x, chunks=chunks()) * 1
    np.testing.assert_array_equal((y.rechunk(chunks()) * 1).rechunk(chunks()).compute(), x)


def test_the_same_chunks_are_the_same_array():
    x = ta.ones((4, 6), chunks=(2, 3))
    assert x.rechunk({0: 2}).node is x.node


def test_refusals():
    x = ta.ones((4, 6), chunks=2)
    with pytest.raises(ChunkError, match="add up to 5"):
        x.rechunk({0: (2, 3)})
    with pytest.raises(UnsupportedError, match="'magic'"):
        x.rechunk(2, method="magic")


def test_unify_chunks():
    x, y = ta.ones((100, 10), chunks=(20, 5)), ta.ones((10, 100), chunks=(4, 50))
    chunks, arrays = ta.unify_chunks(x, "ij", y, "jk", "constant", None)
    assert chunks == {"i": (20,) * 5, "j": (4, 1, 3, 2), "k": (50, 50)}
    assert arrays[0].chunks == ((20,) * 5, (4, 1, 3, 2))
    assert arrays[1].chunks == ((4, 1, 3, 2), (50, 50))
    assert arrays[2] == "constant"
    row, _ = ta.unify_chunks(x, "ij", ta.ones((1, 10), chunks=5), "ij")
    assert row["i"] == (20,) * 5
    assert ta.unify_chunks() == ({}, [])


def test_unify_chunks_refuses():
    with pytest.raises(ChunkError, match="along axis 'i': lengths 4 and 5"):
        ta.unify_chunks(ta.ones(4), "i", ta.ones(5), "i")
    with pytest.raises(PlanError, match="names 2 axes of an array of 1"):
        ta.unify_chunks(ta.ones(4), "ij")
    with pytest.raises(PlanError, match="in turn"):
        ta.unify_chunks(ta.ones(4))
