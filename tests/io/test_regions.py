from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.io.regions import assemble, regular
from tilework.plan.blocks import AxisChunks
from tilework.testing.sources import regions

axes = st.lists(st.integers(0, 5), min_size=1, max_size=5).map(AxisChunks)


@given(st.lists(axes, min_size=0, max_size=3).map(tuple), st.data())
def test_assemble(chunks: tuple[AxisChunks, ...], data: st.DataObject) -> None:
    shape = tuple(axis.total for axis in chunks)
    x = np.arange(int(np.prod(shape))).reshape(shape)
    asked = []

    def block(index: tuple[int, ...]) -> np.ndarray:
        asked.append(index)
        return x[tuple(slice(axis.bounds[k], axis.bounds[k + 1]) for axis, k in zip(chunks, index, strict=True))]

    region = data.draw(regions(shape))
    out = assemble(region, chunks, x.dtype, block)
    np.testing.assert_array_equal(out, x[region])
    assert len(asked) == len(set(asked))


def test_regular() -> None:
    assert regular((AxisChunks((3, 3, 1)), AxisChunks((4,)), AxisChunks((0,)))) == (3, 4, 1)
    assert regular((AxisChunks((3, 2, 3)),)) is None
    assert regular((AxisChunks((3, 4)),)) is None
