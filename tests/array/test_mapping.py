"""Users' own functions of blocks, against NumPy and against what Dask documents."""

from functools import partial

import numpy as np
import pytest

import tilework.array as ta
from tilework.base.errors import BlockResultError, ChunkError, DTypeError, PlanError, UnsupportedError
from tilework.delayed import delayed
from tilework.testing import assert_eq


@pytest.fixture
def grid():
    return np.arange(48).reshape(6, 8)


# ---------------------------------------------------------------- map_blocks


def test_map_blocks_of_several_arrays_and_literals(grid):
    x = ta.from_array(grid, chunks=(4, 3))
    row = ta.from_array(grid[0], chunks=3)
    y = ta.map_blocks(lambda a, n, b, scale: (a + b + n) * scale, x, 5, row, scale=2)
    assert y.dtype == grid.dtype
    assert y.chunks == ((4, 2), (3, 3, 2))
    np.testing.assert_array_equal(y.compute(), (grid + grid[0] + 5) * 2)


def test_numpy_arrays_are_literals(grid):
    x = ta.from_array(grid, chunks=(4, 3))
    y = x.map_blocks(lambda a, whole: a + whole.sum(), grid)
    np.testing.assert_array_equal(y.compute(), grid + grid.sum())


def test_arrays_in_keywords_arrive_as_a_whole(grid):
    x = ta.from_array(grid, chunks=(4, 3))
    y = x.map_blocks(lambda block, most: block + most["a"][0].max(), most={"a": [x]}, dtype=grid.dtype)
    np.testing.assert_array_equal(y.compute(), grid + grid.max())


def test_delayed_values_arrive_as_values(grid):
    x = ta.from_array(grid, chunks=(4, 3))
    by = delayed(lambda: {"by": [3]})()
    y = x.map_blocks(lambda block, how, also: block * how["by"][0] + also[0]["by"][0], by, also=[by], dtype=grid.dtype)
    np.testing.assert_array_equal(y.compute(), grid * 3 + 3)


def test_chunks_that_change(grid):
    x = ta.from_array(grid, chunks=(3, 4))
    y = x.map_blocks(lambda b: b.sum(keepdims=True), chunks=(1, 1))
    assert y.shape == (2, 2)
    np.testing.assert_array_equal(y.compute(), grid.reshape(2, 3, 2, 4).sum(axis=(1, 3)))
    z = ta.from_array(np.arange(5), chunks=3).map_blocks(lambda b: b[::2], chunks=((2, 1),))
    np.testing.assert_array_equal(z.compute(), [0, 2, 3])


def test_drop_axis_joins_its_blocks(grid):
    x = ta.from_array(grid, chunks=(4, 3))
    y = x.map_blocks(lambda b: np.median(b, axis=1), drop_axis=1, dtype=float)
    assert y.chunks == ((4, 2),)
    np.testing.assert_array_equal(y.compute(), np.median(grid, axis=1))
    z = x.map_blocks(lambda b: b.max(), drop_axis=[0, -1], chunks=())
    assert z.compute() == grid.max()


def test_new_axis(grid):
    x = ta.from_array(grid[0], chunks=3)
    y = x.map_blocks(lambda b: b[None, :, None], new_axis=[0, 2])
    assert y.shape == (1, 8, 1)
    np.testing.assert_array_equal(y.compute(), grid[0][None, :, None])
    z = x.map_blocks(lambda b: np.stack([b, -b]), chunks=(2, 3))
    assert z.chunks == ((2,), (3, 3, 3))


def test_new_axis_on_the_left_by_chunks_alone(grid):
    x = ta.from_array(grid[0], chunks=4)
    y = x.map_blocks(lambda b: np.stack([b, -b]), chunks=(2, 4))
    np.testing.assert_array_equal(y.compute(), np.stack([grid[0], -grid[0]]))


def test_blocks_match_by_number_not_by_size():
    x, y = ta.arange(1000, chunks=100), ta.arange(100, chunks=10)
    z = ta.map_blocks(lambda a, b: np.array([a.max(), b.max()]), x, y, chunks=(2,), dtype="i8")
    np.testing.assert_array_equal(z.compute(), np.ravel([[k * 100 + 99, k * 10 + 9] for k in range(10)]))


def test_one_block_goes_with_all():
    x, y = ta.arange(12, chunks=4), ta.arange(5, chunks=5)
    z = ta.map_blocks(lambda a, b: a + b.sum(), x, y, dtype=int)
    np.testing.assert_array_equal(z.compute(), np.arange(12) + 10)


def test_numbers_of_blocks_must_match():
    with pytest.raises(ChunkError, match="2 and 3 blocks"):
        ta.map_blocks(np.add, ta.arange(6, chunks=3), ta.arange(6, chunks=2))


def test_block_info_is_laid_out_as_in_dask():
    seen = {}

    def remember(a, b, block_info=None, block_id=None):
        seen[block_id] = block_info
        return a + b

    x = ta.ones((4, 6), chunks=(2, 3))
    row = ta.ones((6,), chunks=3)
    ta.map_blocks(remember, x, row, dtype=float).compute(scheduler="sync")
    assert set(seen) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    assert seen[1, 0] == {
        0: {"shape": (4, 6), "num-chunks": (2, 2), "array-location": [(2, 4), (0, 3)], "chunk-location": (1, 0)},
        1: {"shape": (6,), "num-chunks": (2,), "array-location": [(0, 3)], "chunk-location": (0,)},
        None: {
            "shape": (4, 6),
            "num-chunks": (2, 2),
            "array-location": [(2, 4), (0, 3)],
            "chunk-location": (1, 0),
            "chunk-shape": (2, 3),
            "dtype": np.dtype(float),
        },
    }


def test_block_info_keeps_to_the_operation_in_a_fused_chain():
    def place(block, block_id=None):
        return np.full_like(block, 10 * block_id[0] + block_id[1])

    x = ta.zeros((4, 6), chunks=(2, 2), dtype=int)
    expected = np.kron([[0, 1, 2], [10, 11, 12]], np.ones((2, 2), int))
    y = x.map_blocks(place, dtype=int)
    np.testing.assert_array_equal((y.T + 1).compute(), expected.T + 1)
    np.testing.assert_array_equal((y[None] + ta.zeros((3, 1, 1), chunks=1, dtype=int)).compute()[2], expected)
    np.testing.assert_array_equal(y.sum(axis=0).compute(), expected.sum(axis=0))


def test_blocks_from_their_place_alone():
    def values(block_info=None):
        return np.arange(*block_info[None]["array-location"][0])

    x = ta.map_blocks(values, chunks=((4, 3),), dtype=int)
    np.testing.assert_array_equal(x.compute(), np.arange(7))


def test_the_function_runs_once_on_empty_input():
    shapes = []

    def remember(block):
        shapes.append(block.shape)
        return block * 2.5

    x = ta.ones((4, 4), chunks=2, dtype=int)
    assert x.map_blocks(remember).dtype == float
    assert shapes == [(0, 0)]
    x.map_blocks(remember, dtype=float)
    x.map_blocks(remember, meta=np.empty((0, 0)))
    assert shapes == [(0, 0)]


def test_functions_without_an_answer_for_nothing_get_one_element():
    x = ta.from_array(np.arange(4), chunks=2)
    np.testing.assert_array_equal(x.map_blocks(np.max, keepdims=True, chunks=(1,)).compute(), [1, 3])


def test_what_cannot_be_inferred_asks_for_dtype():
    def needs_three(block):
        return block[2] * block

    with pytest.raises(DTypeError, match=r"needs_three.*IndexError.*pass dtype=") as caught:
        ta.ones(4, chunks=2).map_blocks(needs_three)
    assert isinstance(caught.value, ValueError)


def test_a_wrong_dtype_is_named():
    x = ta.ones(4, chunks=2).map_blocks(lambda b: b * 0.5, dtype=int)
    with pytest.raises(BlockResultError, match="float64"):
        x.compute()


def test_a_wrong_shape_is_named():
    x = ta.ones((4, 4), chunks=2)
    with pytest.raises(BlockResultError):
        x.map_blocks(lambda b: b[:1], dtype=float).compute()


@pytest.mark.parametrize("options", [{"drop_axis": 2}, {"drop_axis": [0, 0]}, {"new_axis": 7}])
def test_axes_that_do_not_exist(options):
    with pytest.raises((PlanError, np.exceptions.AxisError)):
        ta.ones((4, 4), chunks=2).map_blocks(lambda b: b, dtype=float, **options)


def test_arguments_of_the_wrong_kind():
    with pytest.raises(TypeError, match="must be a function"):
        ta.map_blocks(ta.ones(3), np.sqrt)
    with pytest.raises(ChunkError, match="name 1 axes"):
        ta.ones((4, 4), chunks=2).map_blocks(lambda b: b, chunks=(2,), dtype=float)


def test_equal_calls_are_equal_work():
    x = ta.ones((4, 4), chunks=2)
    assert x.map_blocks(np.sqrt).name == x.map_blocks(np.sqrt).name
    assert x.map_blocks(partial(np.add, 1), dtype=float).name != x.map_blocks(partial(np.add, 2), dtype=float).name


# ---------------------------------------------------------------- blockwise


def test_blockwise_transposes_and_broadcasts(grid):
    x = ta.from_array(grid, chunks=(4, 3))
    y = ta.from_array(grid.T[:, :1], chunks=(2, 1))
    z = ta.blockwise(lambda a, b: a + b.T, "ij", x, "ij", y, "ji")
    np.testing.assert_array_equal(z.compute(), grid + grid[:1])


def test_blockwise_contracts_into_lists(grid):
    x, y = ta.from_array(grid, chunks=(4, 3)), ta.from_array(grid.T, chunks=(4, 2))

    def products(a_blocks, b_blocks):
        return sum(a @ b for a, b in zip(a_blocks, b_blocks, strict=True))

    z = ta.blockwise(products, "ik", x, "ij", y, "jk")
    np.testing.assert_array_equal(z.compute(), grid @ grid.T)
    inner = ta.blockwise(lambda a: sum(map(np.sum, (b for row in a for b in row))), "", x, "ij", dtype=int)
    assert inner.compute() == grid.sum()


def test_blockwise_contracts_into_arrays(grid):
    x, y = ta.from_array(grid, chunks=(4, 3)), ta.from_array(grid.T, chunks=(4, 2))
    z = ta.blockwise(np.matmul, "ik", x, "ij", y, "jk", concatenate=True)
    np.testing.assert_array_equal(z.compute(), grid @ grid.T)


def test_blockwise_new_axes_and_adjusted_chunks(grid):
    x = ta.from_array(grid[0], chunks=3)
    y = ta.blockwise(lambda a: np.stack([a] * 5, axis=1), "az", x, "a", new_axes={"z": 5})
    assert y.chunks == ((3, 3, 2), (5,))
    np.testing.assert_array_equal(y.compute(), np.stack([grid[0]] * 5, axis=1))
    z = ta.blockwise(lambda a: np.repeat(a, 2), "i", x, "i", adjust_chunks={"i": lambda n: 2 * n}, dtype=int)
    assert z.chunks == ((6, 6, 4),)
    np.testing.assert_array_equal(z.compute(), np.repeat(grid[0], 2))


def test_blockwise_literals():
    x = ta.arange(4, chunks=2)
    z = ta.blockwise(lambda a, n, text: a + n + len(text), "i", x, "i", 10, None, "_1", None)
    np.testing.assert_array_equal(z.compute(), np.arange(4) + 12)


def test_blockwise_refuses():
    x = ta.ones((4, 4), chunks=2)
    with pytest.raises(PlanError, match="repeats 'i'"):
        ta.blockwise(np.sqrt, "ii", x, "ij")
    with pytest.raises(PlanError, match="'k' stands in no input"):
        ta.blockwise(np.sqrt, "ik", x, "ij")
    with pytest.raises(PlanError, match="3 index labels"):
        ta.blockwise(np.sqrt, "ij", x, "ijk", dtype=float)
    with pytest.raises(PlanError, match="in turn"):
        ta.blockwise(np.sqrt, "ij", x)
    with pytest.raises(ChunkError, match="do not fit"):
        ta.blockwise(np.add, "i", ta.ones(4), "i", ta.ones(5), "i")
    with pytest.raises(UnsupportedError, match="concatenate=True"):
        ta.blockwise(lambda a, b: a[0], "i", x, "ij", x, None, dtype=float)


# ---------------------------------------------------------------- reduction


@pytest.mark.parametrize("split_every", [None, 2, {0: 2, 1: 3}])
@pytest.mark.parametrize(("axis", "keepdims"), [(None, False), (0, False), ((0, 1), True), (-1, True)])
def test_reduction_of_ones_own(grid, axis, keepdims, split_every):
    x = ta.from_array(grid, chunks=(1, 2))
    y = ta.reduction(
        x, np.sum, np.sum, axis=axis, keepdims=keepdims, dtype=grid.dtype,
        split_every=split_every if axis is None or split_every != {0: 2, 1: 3} else 2,
    )  # fmt: skip
    expected = grid.sum(axis=axis, keepdims=keepdims)
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.compute(), expected)


def _squares(block, axis, keepdims):
    return (block.astype(float) ** 2).sum(axis=axis, keepdims=keepdims)


def _root(total, axis, keepdims):
    return np.sqrt(total.sum(axis=axis, keepdims=keepdims))


@pytest.mark.parametrize("chunks", [100, 3, 1])
def test_reduction_with_a_combine(grid, chunks):
    x = ta.from_array(grid, chunks=chunks)
    y = ta.reduction(x, _squares, _root, combine=np.sum, dtype=float, split_every=3)
    np.testing.assert_allclose(y.compute(), np.sqrt((grid**2).sum()))


@pytest.mark.parametrize("chunks", [100, 3])
def test_an_aggregate_runs_once_where_one_level_is_enough(grid, chunks):
    y = ta.reduction(ta.from_array(grid, chunks=chunks), _squares, _root, dtype=float)
    np.testing.assert_allclose(y.compute(), np.sqrt((grid**2).sum()))


@pytest.mark.parametrize("chunks", [100, 3, 1])
@pytest.mark.parametrize("axis", [None, 0])
def test_partial_results_may_be_anything(grid, chunks, axis):
    def chunk(block, axis, keepdims):
        return {"n": np.ones_like(block).sum(axis, keepdims=keepdims), "total": block.sum(axis, keepdims=keepdims)}

    def flat(nested):
        return [p for part in nested for p in (flat(part) if isinstance(part, list) else [part])]

    def combine(parts, axis, keepdims):
        assert isinstance(parts, list)
        return {name: sum(p[name] for p in flat(parts)) for name in ("n", "total")}

    def aggregate(parts, axis, keepdims):
        both = combine(parts, axis, keepdims)
        mean = both["total"] / both["n"]
        return mean if keepdims else mean.squeeze(axis)

    x = ta.from_array(grid, chunks=chunks)
    y = ta.reduction(x, chunk, aggregate, axis=axis, combine=combine, concatenate=False, dtype=float, split_every=3)
    np.testing.assert_allclose(y.compute(), grid.mean(axis=axis))


def test_reduction_passes_dtype_and_sizes(grid):
    def lowest(block, axis, keepdims, dtype=None):
        assert dtype == np.float32
        return np.sort(block.astype(dtype), axis=axis[0])[:2]

    x = ta.from_array(grid, chunks=(3, 4))
    y = ta.reduction(x, lowest, lowest, axis=0, keepdims=True, dtype="f4", output_size=2)
    assert y.shape == (2, 8)
    np.testing.assert_array_equal(y.compute(), grid[:2])


def test_reduction_by_one_function(grid):
    x = ta.from_array(grid, chunks=2)
    assert ta.reduction(x, np.max, dtype=grid.dtype).compute() == grid.max()
    count = ta.reduction(x, np.count_nonzero, combine=np.sum, dtype=int)
    assert count.compute() == np.count_nonzero(grid)


def test_reduction_needs_a_dtype():
    with pytest.raises(DTypeError, match="pass dtype="):
        ta.reduction(ta.ones(4), np.sum, np.sum)


def test_unknown_chunk_sizes():
    x = ta.from_array(np.arange(20), chunks=6)
    y = x[x % 3 == 0]
    np.testing.assert_array_equal(y.map_blocks(np.negative).compute(), -np.arange(0, 20, 3))
    np.testing.assert_array_equal(ta.map_blocks(np.add, y, y, dtype=int).compute(), np.arange(0, 20, 3) * 2)
    np.testing.assert_array_equal(ta.blockwise(np.add, "i", y, "i", y * 2, "i").compute(), np.arange(0, 20, 3) * 3)
    assert ta.reduction(y, np.sum, dtype=int).compute() == 63
    places = ta.map_blocks(lambda b, block_info=None: np.full(1, block_info[0]["array-location"][0][0]), y,
                           chunks=(1,), dtype=float)  # fmt: skip
    assert np.isnan(places.compute()).all()
    rows = ta.from_array(np.arange(20).reshape(5, 4), chunks=(2, 4))
    some = rows[ta.from_array(np.arange(5) % 2 == 0, chunks=2)]
    np.testing.assert_array_equal(
        ta.apply_gufunc(lambda a: a[..., ::-1], "(i)->(i)", some).compute(), np.arange(20).reshape(5, 4)[::2, ::-1]
    )


# ---------------------------------------------------------------- options of reductions


def weighted_sum(x, axis, keepdims, weights=None):
    return np.sum(x if weights is None else x * weights, axis=axis, keepdims=keepdims)


def test_reduction_with_weights():
    a, weights = np.arange(60.0).reshape(6, 10), np.linspace(1, 2, 6).reshape(6, 1)
    x = ta.from_array(a, chunks=(4, 5))
    for given in (weights, ta.from_array(weights, chunks=2)):
        found = ta.reduction(x, weighted_sum, np.sum, axis=0, dtype=float, weights=given)
        assert_eq(found, (a * weights).sum(axis=0))
    assert_eq(ta.reduction(x, weighted_sum, np.sum, dtype=float), a.sum())
    with pytest.raises(PlanError, match="broadcast"):
        ta.reduction(x, weighted_sum, np.sum, dtype=float, weights=[1, 2, 3])


def test_reduction_into_an_array():
    x, out = ta.arange(10, chunks=4), ta.zeros((), dtype=int)
    assert ta.reduction(x, np.sum, np.sum, dtype=int, out=out) is out
    assert_eq(out, 45)


def test_reductions_that_leave_more_than_one_element():
    def ends(x, axis, keepdims):
        (k,) = axis
        return np.concatenate([x.min(k, keepdims=True), x.max(k, keepdims=True)], k)

    def everything(x, axis, keepdims):
        return x

    a = np.random.default_rng(0).random((7, 5))
    x = ta.from_array(a, chunks=3)
    found = ta.reduction(x, ends, ends, axis=0, keepdims=True, dtype=float)
    assert np.isnan(found.shape[0])
    assert_eq(found, np.stack([a.min(0), a.max(0)]))
    assert ta.reduction(x, ends, ends, axis=0, keepdims=True, dtype=float, output_size=2).shape == (2, 5)
    assert_eq(ta.reduction(x, everything, everything, axis=(0, 1), keepdims=True, dtype=float), a)


def test_new_axes_have_the_length_that_is_seen():
    a = np.arange(6.0)
    x = ta.from_array(a, chunks=2)
    found = x.map_blocks(lambda block: np.stack([block, block + 0.5]), new_axis=0)
    assert found.chunks == ((2,), (2, 2, 2))
    assert_eq(found, np.stack([a, a + 0.5]))
    assert_eq(ta.map_overlap(lambda block: np.stack([block, block]), x, depth=1, new_axis=0), np.stack([a, a]))
    assert x.map_blocks(lambda block: block[None], new_axis=0, dtype=float).shape == (1, 6)
