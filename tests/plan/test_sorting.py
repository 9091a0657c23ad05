from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tilework.plan.sorting import cuts, ranking, spacing_for, windows


@given(
    st.lists(st.lists(st.one_of(st.integers(0, 4), st.just(np.nan)), max_size=40), min_size=1, max_size=8),
    st.integers(1, 9),
    st.data(),
)
def test_runs_are_cut_at_any_rank(lists: list[list[float]], spacing: int, data: st.DataObject) -> None:
    """Against the stable order of all elements: by value, then run, then place."""
    runs = [np.sort(np.array(values, float)) for values in lists]
    sizes = np.array([len(run) for run in runs])
    rank = data.draw(st.integers(0, int(sizes.sum())))
    ranked = ranking(np.concatenate([run[::spacing] for run in runs]), sizes, spacing)
    first, stop = windows(rank, ranked, sizes, spacing)
    assert ((first >= 0) & (first <= stop) & (stop <= sizes)).all()
    found = cuts(rank, first, [run[a:b] for run, a, b in zip(runs, first, stop, strict=True)])
    order = np.argsort(np.concatenate(runs), kind="stable")[:rank]
    expected = np.bincount(np.repeat(np.arange(len(runs)), sizes)[order], minlength=len(runs))
    np.testing.assert_array_equal(found, expected)


def test_windows_hold_less_than_a_block_whatever_the_values() -> None:
    for values in (np.random.default_rng(0).random(100_000), np.zeros(100_000), np.arange(100_000.0)):
        runs = [np.sort(run) for run in np.split(values, 20)]
        sizes = np.full(20, 5000)
        spacing = spacing_for(sizes)
        ranked = ranking(np.concatenate([run[::spacing] for run in runs]), sizes, spacing)
        for rank in range(0, 100_001, 5000):
            first, stop = windows(rank, ranked, sizes, spacing)
            assert (stop - first).sum() < 5000
