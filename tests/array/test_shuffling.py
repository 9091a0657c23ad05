from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base.errors import UnsupportedError
from tilework.testing import assert_eq


@given(st.data())
def test_groups_come_together_and_stay_whole(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    order = data.draw(st.permutations(range(n)))
    cuts = sorted(data.draw(st.sets(st.integers(0, n), max_size=6)) | {0, n})
    groups = [order[a:b] for a, b in pairwise(cuts)]
    x = np.arange(n * 2).reshape(n, 2)
    lazy = ta.shuffle(ta.from_array(x, chunks=(data.draw(st.integers(1, n)), 1)), groups, axis=0)
    assert_eq(lazy, x[np.array(order)])
    bounds = set(np.cumsum((0, *lazy.chunks[0])).tolist())
    assert bounds <= set(np.cumsum([0, *map(len, groups)]).tolist())


def test_refusals_name_the_value() -> None:
    x = ta.arange(4, chunks=2)
    with pytest.raises(IndexError, match="position 4 is out of bounds for axis 0 with size 4"):
        ta.shuffle(x, [[0, 4]], axis=0)
    with pytest.raises(UnsupportedError, match="rechunk"):
        ta.shuffle(x, [[0, 1]], axis=0, chunks=(2, 2))
