"""Shapes, joining, cutting, turning and padding against NumPy."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tilework.array as ta
from tilework.base.errors import PlanError, UnknownChunksError, UnsupportedError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays, chunks

few = settings(max_examples=15)


@pytest.fixture
def a():
    return np.arange(60).reshape(3, 4, 5)


@pytest.fixture
def x(a):
    return ta.from_array(a, chunks=(2, 3, 2))


@pytest.fixture
def unknown():
    x = ta.arange(10, chunks=4)
    return x[x > 3]


# ---------------------------------------------------------------- axes


@few
@given(st.data(), arrays(dtypes=["int64"], max_dims=4))
def test_orders_of_axes(data, pair):
    a, x = pair
    axes = data.draw(st.permutations(range(a.ndim)))
    assert_eq(x.transpose(axes), a.transpose(axes))
    assert_eq(x.transpose(*axes), a.transpose(*axes))
    assert_eq(ta.permute_dims(x, tuple(axes)), a.transpose(axes))
    assert_eq(x.T, a.T)
    if a.ndim:
        axis = st.integers(-a.ndim, a.ndim - 1)
        i, j = data.draw(axis), data.draw(axis)
        assert_eq(np.swapaxes(x, i, j), np.swapaxes(a, i, j))
        assert_eq(np.moveaxis(x, i, j), np.moveaxis(a, i, j))
        start = data.draw(st.integers(-a.ndim, a.ndim))
        assert_eq(np.rollaxis(x, i, start), np.rollaxis(a, i, start))
    if a.ndim > 1:
        assert_eq(x.mT, a.mT)


def test_axes_that_make_no_sense(x):
    with pytest.raises(ValueError, match="axes"):
        x.transpose(0, 1)
    for bad in (
        lambda: ta.moveaxis(x, 3, 0),
        lambda: x.swapaxes(0, 5),
        lambda: ta.expand_dims(x, 7),
        lambda: x.squeeze(4),
    ):
        with pytest.raises(np.exceptions.AxisError):
            bad()
    with pytest.raises(ValueError, match="only length one"):
        x.squeeze(0)
    with pytest.raises(ValueError, match="as many"):
        ta.moveaxis(x, [0, 1], [0])
    with pytest.raises(ValueError, match="two dimensions"):
        ta.matrix_transpose(ta.ones(3))


@few
@given(st.data(), arrays(dtypes=["int64"], max_dims=3, max_side=3))
def test_axes_of_length_one(data, pair):
    a, x = pair
    ndim = a.ndim + data.draw(st.integers(1, 2))
    axes = tuple(data.draw(st.sets(st.integers(0, ndim - 1), min_size=ndim - a.ndim, max_size=ndim - a.ndim)))
    assert_eq(ta.expand_dims(x, axes), np.expand_dims(a, axes))
    assert_eq(np.squeeze(ta.expand_dims(x, axes), axes), a)
    assert_eq(x.squeeze(), a.squeeze())
    for name in ("atleast_1d", "atleast_2d", "atleast_3d"):
        assert_eq(getattr(ta, name)(x), getattr(np, name)(a))
    assert [y.ndim for y in ta.atleast_2d(x, 1)] == [y.ndim for y in np.atleast_2d(a, 1)]


@few
@given(st.data(), arrays(dtypes=["int64"], max_side=4))
def test_broadcasting(data, pair):
    a, x = pair
    shape = tuple(data.draw(st.integers(1, 3)) if n == 1 else n for n in a.shape)
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=2))) + shape
    assert_eq(ta.broadcast_to(x, shape), np.broadcast_to(a, shape))
    row = np.arange(a.shape[-1] if a.ndim else 2)
    for mine, theirs in zip(np.broadcast_arrays(x, row), np.broadcast_arrays(a, row), strict=True):
        assert_eq(mine, theirs)


def test_broadcasting_options(x, unknown):
    assert ta.broadcast_to(ta.ones(3, chunks=2), (6, 3), chunks=(4, 3)).chunks == ((4, 2), (3,))
    for shape in [(3, 4), (2, 3, 4, 6), (3, 4, 1)]:
        with pytest.raises(ValueError, match="broadcast"):
            ta.broadcast_to(x, shape)
    with pytest.raises(ValueError):
        ta.broadcast_arrays(ta.ones(3), ta.ones(4))
    with pytest.raises(UnknownChunksError):
        ta.broadcast_arrays(unknown, ta.ones((2, 1)))
    assert ta.broadcast_shapes((3, 1), (4,)) == (3, 4)


# ---------------------------------------------------------------- reshape


SHAPES = [(24,), (2, 12), (12, 2), (4, 6), (6, 4), (2, 3, 4), (4, 3, 2), (1, 24), (2, 1, 12), (2, 2, 2, 3), (3, 8)]


@few
@given(st.sampled_from(SHAPES), st.sampled_from(SHAPES), st.data())
def test_reshape(before, after, data):
    a = np.arange(24).reshape(before)
    x = ta.from_array(a, chunks=data.draw(chunks(before)))
    after = list(after)
    after[data.draw(st.integers(0, len(after) - 1))] = -1
    assert_eq(x.reshape(*after), a.reshape(*after))
    assert_eq(np.reshape(x, after, order="F"), np.reshape(a, after, order="F"))
    assert_eq(x.ravel(), a.ravel())
    assert_eq(x.flatten(), a.flatten())
    assert_eq(ta.ravel(x, order="F"), np.ravel(a, order="F"))


def test_reshape_of_few_elements():
    assert_eq(ta.asarray(3).reshape(1, 1), np.array([[3]]))
    assert_eq(ta.ones((1, 1)).reshape(()), np.ones(()))
    assert_eq(ta.ones((0, 3)).reshape(3, 0), np.ones((3, 0)))
    with pytest.raises(ValueError, match="cannot reshape"):
        ta.ones((2, 3)).reshape(4)
    with pytest.raises(ValueError, match="one of them"):
        ta.ones((2, 3)).reshape(-1, -1)
    with pytest.raises(PlanError, match="order"):
        ta.ones((2, 3)).reshape(6, order="K")


def test_reshape_of_unknown_lengths(unknown):
    assert_eq(unknown.ravel(), np.arange(4, 10))
    assert_eq(unknown.reshape(-1, 1), np.arange(4, 10)[:, None])
    with pytest.raises(UnknownChunksError, match="compute_chunk_sizes"):
        unknown.reshape(2, 3)


# ---------------------------------------------------------------- joining


@few
@given(st.data(), arrays(dtypes=["int64", "float32"], min_dims=1))
def test_concatenate(data, pair):
    a, x = pair
    axis = data.draw(st.integers(-a.ndim, a.ndim - 1))
    plain, lazy = [a], [x]
    for _ in range(data.draw(st.integers(0, 2))):
        shape = list(a.shape)
        shape[axis] = data.draw(st.integers(0, 4))
        b, y = data.draw(arrays(dtypes=["int8", "float64"], shape=tuple(shape)))
        plain.append(b)
        lazy.append(data.draw(st.sampled_from([y, b])))
    assert_eq(ta.concatenate(lazy, axis=axis), np.concatenate(plain, axis=axis))
    assert_eq(ta.concatenate(lazy, axis=None), np.concatenate(plain, axis=None))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (0, 2, 2)])
def test_empty_arrays_must_fit_as_well(shape):
    with pytest.raises(ValueError, match="differ outside axis 0"):
        ta.concatenate([ta.ones((2, 2)), ta.ones(shape)])


@few
@given(st.data(), arrays(dtypes=["int64"], max_dims=2))
def test_stack(data, pair):
    a, x = pair
    axis = data.draw(st.integers(-a.ndim - 1, a.ndim))
    plain, lazy = [a, a.astype("float32") + 1], [x, x.astype("float32") + 1]
    assert_eq(np.stack(lazy, axis=axis), np.stack(plain, axis=axis))
    for name in ("vstack", "hstack", "dstack", "column_stack"):
        assume(a.ndim or name != "column_stack")
        assert_eq(getattr(ta, name)(lazy), getattr(np, name)(plain))
    for mine, theirs in zip(ta.unstack(ta.stack(lazy, axis=axis), axis=axis), plain, strict=True):
        assert_eq(mine, theirs.astype(np.result_type(*plain)))


def test_joining_what_does_not_fit(x, a, unknown):
    with pytest.raises(ValueError, match="at least one"):
        ta.concatenate([])
    with pytest.raises(ValueError, match="shapes"):
        ta.concatenate([x, x[:, :2]])
    with pytest.raises(ValueError, match="zero-dimensional"):
        ta.concatenate([ta.asarray(1), ta.asarray(2)])
    with pytest.raises(ValueError, match="same shape"):
        ta.stack([x, x[:2]])
    with pytest.raises(TypeError, match="cast"):
        ta.concatenate([ta.ones(2), ta.ones(2)], dtype=int)
    assert_eq(ta.concatenate([ta.ones(2), ta.ones(2)], dtype="float32"), np.ones(4, "float32"))
    assert_eq(ta.concatenate([unknown, unknown]), np.tile(np.arange(4, 10), 2))
    assert_eq(ta.stack([unknown, unknown + 1]), np.stack([np.arange(4, 10), np.arange(5, 11)]))


def test_block():
    one, two = np.ones((2, 2)), np.full((2, 3), 2)
    nested = [[one, two], [two, one]]
    lazy = [[ta.from_array(one, chunks=1), two], [two, one]]
    assert_eq(ta.block(lazy), np.block(nested))
    assert_eq(ta.block([ta.arange(3), 7]), np.block([np.arange(3), 7]))
    assert_eq(ta.block(ta.arange(3)), np.arange(3))
    assert_eq(
        ta.block([[[ta.ones((2, 2))]], [[ta.zeros((2, 2))]]]), np.block([[[np.ones((2, 2))]], [[np.zeros((2, 2))]]])
    )
    with pytest.raises(ValueError, match="depths"):
        ta.block([ta.ones(2), [ta.ones(2)]])


def test_append_insert_delete(a, x):
    assert_eq(np.append(x, a, axis=1), np.append(a, a, axis=1))
    assert_eq(np.append(x, 1), np.append(a, 1))
    for obj in (1, [1, 3], [3, 1, 1], (0, 2), [], slice(0, 4, 2), -1, np.array([True, False, True, False])):
        assert_eq(np.delete(x, obj, axis=1), np.delete(a, obj, axis=1))
    assert_eq(np.delete(x, 5), np.delete(a, 5))
    for obj, values in [
        (1, 9),
        ([1, 3], 9),
        ([3, 1, 1], np.arange(3)[:, None]),
        (slice(0, 4, 2), 7),
        (-1, np.arange(5)),
    ]:
        assert_eq(np.insert(x, obj, values, axis=1), np.insert(a, obj, values, axis=1))
    assert_eq(
        np.insert(x, 2, np.arange(12).reshape(3, 4), axis=2), np.insert(a, 2, np.arange(12).reshape(3, 4), axis=2)
    )
    assert_eq(np.insert(x, 3, 99), np.insert(a, 3, 99))
    with pytest.raises(IndexError, match="out of bounds"):
        np.insert(x, 9, 1, axis=0)
    with pytest.raises(IndexError):
        np.delete(x, 9, axis=0)


# ---------------------------------------------------------------- cutting


def test_split(a, x):
    for name, sections in [("split", [1, 3]), ("split", 2), ("array_split", 3), ("array_split", [0, 9]), ("hsplit", 2)]:
        args = (1,) if name != "hsplit" else ()
        mine, theirs = getattr(np, name)(x, sections, *args), getattr(np, name)(a, sections, *args)
        assert len(mine) == len(theirs)
        for m, t in zip(mine, theirs, strict=True):
            assert_eq(m, t)
    assert [p.shape for p in ta.vsplit(x, 3)] == [p.shape for p in np.vsplit(a, 3)]
    assert [p.shape for p in ta.dsplit(x, 5)] == [p.shape for p in np.dsplit(a, 5)]
    with pytest.raises(ValueError, match="equal division"):
        ta.split(x, 3, axis=1)
    with pytest.raises(ValueError, match="larger than 0"):
        ta.array_split(x, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: ta.insert(x, 0, 9),
        lambda x: ta.delete(x, 0),
        lambda x: ta.repeat(x, 2),
        ta.tril,
        ta.diag,
        ta.flatnonzero,
    ],
)
def test_changes_of_unknown_length(unknown, change):
    with pytest.raises(UnknownChunksError, match="unknown length"):
        change(unknown)


def test_parts_of_unknown_length(unknown):
    with pytest.raises(UnknownChunksError):
        ta.split(unknown, 2)
    with pytest.raises(UnknownChunksError):
        ta.unstack(unknown)


@few
@given(st.integers(-4, 5), arrays(dtypes=["int64"], min_dims=2, max_dims=3), st.data())
def test_diagonals(k, pair, data):
    a, x = pair
    axes = data.draw(st.permutations(range(a.ndim)))[:2]
    assert_eq(np.diagonal(x, k, *axes), np.diagonal(a, k, *axes))
    assert_eq(np.tril(x, k), np.tril(a, k))
    assert_eq(np.triu(x, k), np.triu(a, k))
    if a.ndim == 2:
        assert_eq(np.diag(x, k), np.diag(a, k))


def test_diag_and_triangles_of_vectors():
    a = np.arange(1, 5)
    x = ta.from_array(a, chunks=3)
    for k in (-2, 0, 3):
        assert_eq(ta.diag(x, k), np.diag(a, k))
        assert_eq(ta.tril(x, k), np.tril(a, k))
        assert_eq(ta.tri(4, 3, k), np.tri(4, 3, k))
    with pytest.raises(ValueError, match="1- or 2"):
        ta.diag(ta.ones((2, 2, 2)))
    with pytest.raises(ValueError, match="two dimensions"):
        ta.diagonal(x)


def test_an_axis_of_length_one_may_have_empty_blocks():
    a = np.arange(3).reshape(1, 3)
    x = ta.from_array(a, chunks=((0, 1, 0), (3,)))
    assert_eq(x.reshape(3), a.reshape(3))
    assert_eq(x.squeeze(0), a.squeeze(0))
    assert_eq(x[0], a[0])
    assert_eq(x[-1, ::2] + 1, a[-1, ::2] + 1)
    assert_eq(ta.broadcast_to(x, (4, 3)), np.broadcast_to(a, (4, 3)))
    assert_eq(x + np.ones((2, 3)), a + np.ones((2, 3)))


# ---------------------------------------------------------------- turning and repeating


@few
@given(st.data(), arrays(dtypes=["int64"], max_dims=3))
def test_flip_roll_rot(data, pair):
    a, x = pair
    axis = data.draw(st.one_of(st.none(), st.sets(st.integers(0, a.ndim - 1)).map(tuple))) if a.ndim else None
    assert_eq(np.flip(x, axis), np.flip(a, axis))
    shift = data.draw(st.integers(-9, 9))
    assert_eq(np.roll(x, shift), np.roll(a, shift))
    if axis:
        assert_eq(np.roll(x, shift, axis), np.roll(a, shift, axis))
        shifts = tuple(range(len(axis)))
        assert_eq(np.roll(x, shifts, axis), np.roll(a, shifts, axis))
    if a.ndim >= 2:
        k, plane = data.draw(st.integers(-5, 5)), tuple(data.draw(st.permutations(range(a.ndim)))[:2])
        assert_eq(np.rot90(x, k, plane), np.rot90(a, k, plane))
        assert_eq(np.flipud(x), np.flipud(a))
        assert_eq(np.fliplr(x), np.fliplr(a))


def test_turning_what_cannot_be_turned():
    with pytest.raises(ValueError, match="two-dimensional"):
        ta.fliplr(ta.ones(3))
    with pytest.raises(ValueError, match="two axes"):
        ta.rot90(ta.ones((2, 2)), axes=(0,))


@few
@given(st.data(), arrays(dtypes=["int64"], max_dims=2, max_side=4))
def test_tile_and_repeat(data, pair):
    a, x = pair
    reps = data.draw(st.one_of(st.integers(0, 3), st.lists(st.integers(0, 3), max_size=3)))
    assert_eq(np.tile(x, reps), np.tile(a, reps))
    axis = data.draw(st.one_of(st.none(), *([st.integers(-a.ndim, a.ndim - 1)] if a.ndim else [])))
    n = a.size if axis is None else a.shape[axis]
    for repeats in (2, data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))):
        repeats = np.array(repeats, int)
        assert_eq(x.repeat(repeats, axis), a.repeat(repeats, axis))


def test_lazy_repeats_leave_the_length_open():
    a = np.arange(6).reshape(2, 3)
    x = ta.from_array(a, chunks=2)
    assert_eq(ta.repeat(x, ta.asarray([2, 0, 1]), axis=1), np.repeat(a, [2, 0, 1], axis=1))
    assert_eq(ta.repeat(x, ta.asarray(2)), np.repeat(a, 2))


def test_tile_refuses():
    with pytest.raises(PlanError, match="negative"):
        ta.tile(ta.ones(3), -1)


# ---------------------------------------------------------------- pad

MODES = ["constant", "edge", "reflect", "symmetric", "wrap", "linear_ramp", "maximum", "minimum", "mean"]


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=10)
@given(data=st.data(), pair=arrays(dtypes=["int64", "float64"], min_dims=1, max_dims=2, min_side=1))
def test_pad(mode, data, pair):
    a, x = pair
    width = data.draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=a.ndim, max_size=a.ndim))
    options = {
        "constant": {"constant_values": (7, -7)}, "linear_ramp": {"end_values": (3, 100)},
        "maximum": {"stat_length": 2}, "mean": {"stat_length": ((1, 3),)},
    }.get(mode, {})  # fmt: skip
    options = data.draw(st.sampled_from([{}, options]))
    assert_eq(np.pad(x, width, mode, **options), np.pad(a, width, mode, **options))


def test_widths_of_pad(a, x, unknown):
    for width in (1, (2, 3), ((1, 2),), {0: 1, -1: (2, 0)}):
        assert_eq(ta.pad(x, width), np.pad(a, width))
    assert ta.pad(x, 1, mode="empty").shape == (5, 6, 7)
    with pytest.raises(ValueError, match="negative"):
        ta.pad(x, -1)
    with pytest.raises(ValueError, match="pair"):
        ta.pad(x, [1, 2, 3])
    with pytest.raises(TypeError, match="integral"):
        ta.pad(x, 1.5)
    with pytest.raises(UnsupportedError, match="median"):
        ta.pad(x, 1, mode="median")
    with pytest.raises(UnsupportedError, match="odd"):
        ta.pad(x, 1, mode="reflect", reflect_type="odd")
    with pytest.raises(ValueError, match="does not take"):
        ta.pad(x, 1, mode="edge", constant_values=1)
    with pytest.raises(ValueError, match="empty"):
        ta.pad(ta.ones(0), 1, mode="edge")
    with pytest.raises(UnknownChunksError):
        ta.pad(unknown, 1)
    assert ta.pad(unknown, 0, mode="edge").node is unknown.node


def test_conditions_that_are_shorter():
    a = np.arange(25).reshape(5, 5)
    x = ta.from_array(a, chunks=2)
    for condition in (np.array([True, False, True, False, True]), np.array([True, False]), [False, True]):
        for axis in (None, 0, 1):
            expected = np.compress(condition, a, axis=axis)
            assert_eq(ta.compress(condition, x, axis=axis), expected)
            assert_eq(ta.compress(ta.asarray(condition), x, axis=axis), expected)
    for condition in (a % 3 == 0, np.array([[True, False], [True, False]]), np.array([True, False])):
        assert_eq(ta.extract(condition, x), np.extract(condition, a))
        assert_eq(ta.extract(ta.from_array(condition, chunks=1), x), np.extract(condition, a))
    with pytest.raises(ValueError, match="1-d"):
        ta.compress([[True], [False]], x)


def test_rollaxis_to_places_counted_from_the_end():
    x = ta.ones((2, 3, 4, 5))
    for axis in range(-4, 4):
        for start in range(-4, 5):
            assert ta.rollaxis(x, axis, start).shape == np.rollaxis(np.ones((2, 3, 4, 5)), axis, start).shape


def test_reshape_blockwise():
    a = np.arange(54).reshape(6, 3, 3)
    x = ta.from_array(a, chunks=(3, 2, (2, 1)))
    joined = ta.reshape_blockwise(x, (18, 3))
    assert joined.chunks == ((6, 3, 6, 3), (2, 1))
    expected = [
        np.concatenate([np.asarray(x.blocks[i, j, k]).reshape(-1, x.chunks[2][k]) for k in range(2)], axis=1)
        for i in range(2)
        for j in range(2)
    ]
    assert_eq(joined, np.concatenate(expected))
    assert_eq(ta.reshape_blockwise(joined, a.shape, chunks=x.chunks), a)
    flat = ta.reshape_blockwise(x, -1)
    assert flat.numblocks == (8,)
    assert ta.reshape_blockwise(x, a.shape) is x
    with pytest.raises(TypeError, match="need to specify chunks"):
        ta.reshape_blockwise(x, (2, 3, 3, 3))
    with pytest.raises(ValueError, match="chunk sizes do not match"):
        ta.reshape_blockwise(joined, a.shape, chunks=((3, 3), (1, 2), (2, 1)))
    with pytest.raises(NotImplementedError, match="reshape"):
        ta.reshape_blockwise(x, (3, 2, 9))
    with pytest.raises(ValueError, match="not allowed"):
        ta.reshape_blockwise(x, (18, 3), chunks=3)
    with pytest.raises(UnknownChunksError):
        ta.reshape_blockwise(x[x[:, 0, 0] > 1], 9)


def test_pad_by_a_function():
    def fill(vector, width, axis, options):
        vector[: width[0]] = -options["scale"] * (axis + 1)
        vector[len(vector) - width[1] :] = vector[width[0]]

    a = np.arange(30.0).reshape(5, 6)
    for widths in (1, ((1, 2), (0, 3))):
        assert_eq(ta.pad(ta.from_array(a, chunks=2), widths, fill, scale=3), np.pad(a, widths, fill, scale=3))
