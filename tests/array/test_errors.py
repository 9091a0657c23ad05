"""Wrong calls: the error is of the class that NumPy raises, and comes when the operation is made, not when it runs."""

import numpy as np
import pytest

import tilework.array as ta


def put(index, value):
    def call(xp, x):
        x = x.copy()
        x[index] = value(xp) if callable(value) else value

    return call


def mask(*shape):
    return np.ones(shape, bool)


# Each call gets NumPy's or tilework's namespace, and an array of shape (3, 4).
CALLS = {
    # indices
    "index out of bounds": lambda xp, x: x[3],
    "index out of bounds, negative": lambda xp, x: x[:, -5],
    "array of indices out of bounds": lambda xp, x: x[[0, 3]],
    "array of indices out of bounds, second axis": lambda xp, x: x[:, np.array([0, 4])],
    "points out of bounds": lambda xp, x: x[[0, 1], [0, 4]],
    "too many indices": lambda xp, x: x[0, 0, 0],
    "two ellipses": lambda xp, x: x[..., 0, ...],
    "index is a float": lambda xp, x: x[1.0],
    "index is an array of floats": lambda xp, x: x[np.array([0.0, 1.0])],
    "index is a lazy array of floats": lambda xp, x: x[xp.asarray([0.0, 1.0])],
    "index is text": lambda xp, x: x["name"],
    "index is an object": lambda xp, x: x[object()],
    "mask too short": lambda xp, x: x[mask(2)],
    "mask too long": lambda xp, x: x[mask(4)],
    "mask of another shape": lambda xp, x: x[mask(3, 5)],
    "mask of too many axes": lambda xp, x: x[mask(3, 4, 1)],
    "lazy mask too short": lambda xp, x: x[xp.asarray(mask(2))],
    "lazy mask of another shape": lambda xp, x: x[xp.asarray(mask(4, 3))],
    "lazy mask of too many axes": lambda xp, x: x[xp.asarray(mask(3, 4, 1))],
    "index arrays that do not broadcast": lambda xp, x: x[[0, 1, 2], [0, 1]],
    "slice without a step": lambda xp, x: x[::0],
    "slice of floats": lambda xp, x: x[0.5:2],
    "field of an array without fields": lambda xp, x: x[["a"]],
    # assignment
    "assigned index out of bounds": put(3, 1),
    "assigned array of indices out of bounds": put([0, 3], 1),
    "assigned value too long": put(0, [1.0, 2.0, 3.0]),
    "assigned value of another shape": put(slice(None), lambda xp: np.ones((4, 3))),
    "assigned value of too many axes": put(0, lambda xp: np.ones((2, 4))),
    "assigned lazy value too long": put(0, lambda xp: xp.ones(3)),
    "assigned values do not fit points": put(([0, 1], [0, 1]), [1.0, 2.0, 3.0]),
    "assigned mask too short": put(mask(2), 1),
    "assigned values do not fit the mask": put(mask(3, 4), lambda xp: np.ones(5)),
    "assigned text": put(0, "word"),
    "assigned a complex number": put(0, 1j),
    "assigned a list of lists of different lengths": put(0, [[1], [2, 3]]),
    # axes
    "sum along a missing axis": lambda xp, x: xp.sum(x, axis=2),
    "sum along a missing axis, negative": lambda xp, x: xp.sum(x, axis=-3),
    "sum along an axis twice": lambda xp, x: xp.sum(x, axis=(0, 0)),
    "sum along an axis twice, negative": lambda xp, x: xp.sum(x, axis=(0, -2)),
    "sum along a float": lambda xp, x: xp.sum(x, axis=1.0),
    "sum along text": lambda xp, x: xp.sum(x, axis="x"),
    "mean along a missing axis": lambda xp, x: xp.mean(x, axis=(0, 5)),
    "argmax along a missing axis": lambda xp, x: xp.argmax(x, axis=2),
    "cumsum along a missing axis": lambda xp, x: xp.cumsum(x, axis=2),
    "sort along a missing axis": lambda xp, x: xp.sort(x, axis=2),
    "median along a missing axis": lambda xp, x: xp.median(x, axis=2),
    "flip along a missing axis": lambda xp, x: xp.flip(x, axis=2),
    "roll along a missing axis": lambda xp, x: xp.roll(x, 1, axis=2),
    "roll with shifts and axes that do not match": lambda xp, x: xp.roll(x, (1, 2, 3), axis=(0, 1)),
    "squeeze of a long axis": lambda xp, x: xp.squeeze(x, axis=0),
    "squeeze of a missing axis": lambda xp, x: xp.squeeze(x, axis=2),
    "expand_dims beyond": lambda xp, x: xp.expand_dims(x, 4),
    "expand_dims twice": lambda xp, x: xp.expand_dims(x, (0, 0)),
    "transpose with too few axes": lambda xp, x: xp.transpose(x, (0,)),
    "transpose with an axis twice": lambda xp, x: xp.transpose(x, (0, 0)),
    "transpose with a missing axis": lambda xp, x: xp.transpose(x, (0, 2)),
    "swapaxes with a missing axis": lambda xp, x: xp.swapaxes(x, 0, 2),
    "moveaxis to several": lambda xp, x: xp.moveaxis(x, 0, (0, 1)),
    "take along a missing axis": lambda xp, x: xp.take(x, [0], axis=2),
    "rot90 in one axis": lambda xp, x: xp.rot90(x, axes=(0, 0)),
    "rot90 in three axes": lambda xp, x: xp.rot90(x, axes=(0, 1, 2)),
    "diagonal along one axis": lambda xp, x: xp.diagonal(x, axis1=0, axis2=0),
    "diagonal of a vector": lambda xp, x: xp.diagonal(x[0]),
    "diag of three axes": lambda xp, x: xp.diag(x[None]),
    "trace of a vector": lambda xp, x: xp.trace(x[0]),
    "axis of a scalar": lambda xp, x: xp.sum(x.sum(), axis=1),
    "len of a scalar": lambda xp, x: len(xp.asarray(1.0)),
    "iteration over a scalar": lambda xp, x: list(xp.asarray(1.0)),
    # shapes
    "operands that do not broadcast": lambda xp, x: x + np.ones(3),
    "lazy operands that do not broadcast": lambda xp, x: x + xp.ones((4, 3)),
    "where that does not broadcast": lambda xp, x: xp.where(x > 0, x, np.ones(3)),
    "where with two arguments": lambda xp, x: xp.where(x > 0, x),
    "clip that does not broadcast": lambda xp, x: xp.clip(x, np.ones(3), None),
    "reshape to another size": lambda xp, x: x.reshape(5, 3),
    "reshape with two unknowns": lambda xp, x: x.reshape(-1, -1),
    "reshape with an unknown that is no integer": lambda xp, x: x.reshape(-1, 5),
    "reshape to floats": lambda xp, x: xp.reshape(x, (2.0, 6)),
    "reshape with another order": lambda xp, x: xp.reshape(x, (4, 3), order="X"),
    "broadcast_to a shape that does not fit": lambda xp, x: xp.broadcast_to(x, (4, 4)),
    "broadcast_to fewer axes": lambda xp, x: xp.broadcast_to(x, (4,)),
    "concatenate nothing": lambda xp, x: xp.concatenate([]),
    "concatenate scalars": lambda xp, x: xp.concatenate([x.sum(), x.sum()]),
    "concatenate shapes that do not fit": lambda xp, x: xp.concatenate([x, np.ones((3, 5))], axis=0),
    "concatenate different numbers of axes": lambda xp, x: xp.concatenate([x, np.ones(4)]),
    "concatenate along a missing axis": lambda xp, x: xp.concatenate([x, x], axis=2),
    "stack different shapes": lambda xp, x: xp.stack([x, x[:2]]),
    "stack along a missing axis": lambda xp, x: xp.stack([x, x], axis=4),
    "stack nothing": lambda xp, x: xp.stack([]),
    "split unequally": lambda xp, x: xp.split(x, 2),
    "split into nothing": lambda xp, x: xp.split(x, 0),
    "vsplit of a vector": lambda xp, x: xp.vsplit(x[0], 2),
    "dsplit of a table": lambda xp, x: xp.dsplit(x, 2),
    "repeat negative": lambda xp, x: xp.repeat(x, -1),
    "repeat that does not fit": lambda xp, x: xp.repeat(x, [1, 2], axis=0),
    "tile with floats": lambda xp, x: xp.tile(x, 1.5),
    "tile negative": lambda xp, x: xp.tile(x, -1),
    "pad negative": lambda xp, x: xp.pad(x, -1),
    "pad with too many widths": lambda xp, x: xp.pad(x, ((1, 1), (1, 1), (1, 1))),
    "pad with floats": lambda xp, x: xp.pad(x, 1.5),
    "pad in an unknown way": lambda xp, x: xp.pad(x, 1, mode="nonsense"),
    "zeros of negative length": lambda xp, x: xp.zeros((2, -1)),
    "zeros of a float": lambda xp, x: xp.zeros(2.5),
    "arange without a step": lambda xp, x: xp.arange(0, 5, 0),
    "linspace of negative length": lambda xp, x: xp.linspace(0, 1, -1),
    "delete out of bounds": lambda xp, x: xp.delete(x, 3, axis=0),
    "insert out of bounds": lambda xp, x: xp.insert(x, 9, 0, axis=0),
    "insert values that do not fit": lambda xp, x: xp.insert(x, 1, np.ones(3), axis=0),
    "take out of bounds": lambda xp, x: xp.take(x, [4], axis=1),
    "take with floats": lambda xp, x: xp.take(x, np.array([0.5]), axis=1),
    "take in an unknown way": lambda xp, x: xp.take(x, [0], mode="nonsense"),
    "take_along_axis with floats": lambda xp, x: xp.take_along_axis(x, np.zeros((3, 1)), axis=1),
    "take_along_axis of other dimensions": lambda xp, x: xp.take_along_axis(x, np.zeros(3, int), axis=1),
    "compress by a table": lambda xp, x: xp.compress(mask(3, 4), x),
    "compress beyond the axis": lambda xp, x: xp.compress(mask(5), x, axis=0),
    "matmul of shapes that do not fit": lambda xp, x: xp.matmul(x, x),
    "matmul with a scalar": lambda xp, x: xp.matmul(x, 2.0),
    "dot of shapes that do not fit": lambda xp, x: xp.dot(x, x),
    "tensordot along a missing axis": lambda xp, x: xp.tensordot(x, x, axes=([0], [5])),
    "tensordot of lengths that differ": lambda xp, x: xp.tensordot(x, x, axes=([0], [1])),
    "einsum of too many labels": lambda xp, x: xp.einsum("ijk->i", x),
    "einsum of an unknown label": lambda xp, x: xp.einsum("ij->k", x),
    "einsum of lengths that differ": lambda xp, x: xp.einsum("ij,ik->jk", x, x.T),
    "einsum of too few operands": lambda xp, x: xp.einsum("ij,jk->ik", x),
    "searchsorted in a table": lambda xp, x: xp.searchsorted(x, 1.0),
    "searchsorted on a side": lambda xp, x: xp.searchsorted(x[0], 1.0, side="middle"),
    "average of weights that do not fit": lambda xp, x: xp.average(x, axis=0, weights=np.ones(5)),
    "average of weights without an axis": lambda xp, x: xp.average(x, weights=np.ones(3)),
    "quantile out of range": lambda xp, x: xp.quantile(x, 1.5),
    "percentile out of range": lambda xp, x: xp.percentile(x, [50, 101]),
    "quantile by an unknown method": lambda xp, x: xp.quantile(x, 0.5, method="nonsense"),
    "diff of negative order": lambda xp, x: xp.diff(x, n=-1),
    "diff of a scalar": lambda xp, x: xp.diff(x.sum()),
    "maximum of nothing": lambda xp, x: xp.max(x[:0]),
    "maximum of nothing along an axis": lambda xp, x: xp.min(x[:, :0], axis=1),
    "argmax of nothing": lambda xp, x: xp.argmax(x[:0]),
    "nanargmax of nothing": lambda xp, x: xp.nanargmax(x[:0], axis=0),
    "reduce of nothing": lambda xp, x: np.fmax.reduce(x[:0], axis=0),
    "select of different numbers": lambda xp, x: xp.select([x > 0], [x, x]),
    "select by numbers": lambda xp, x: xp.select([x], [x]),
    "meshgrid by an unknown order": lambda xp, x: xp.meshgrid(x[0], indexing="ab"),
    "item of many": lambda xp, x: x.item(),
    "item by too few indices": lambda xp, x: x.item(()),
    "item out of bounds": lambda xp, x: x.item(12),
    "float of many": lambda xp, x: float(x),
    "truth of many": lambda xp, x: bool(x),
    "index of a float": lambda xp, x: range(x.sum()),
    # dtypes
    "subtract booleans": lambda xp, x: (x > 0) - (x > 1),
    "negative of booleans": lambda xp, x: -(x > 0),
    "invert floats": lambda xp, x: ~x,
    "and of floats": lambda xp, x: x & x,
    "shift floats": lambda xp, x: x << 1,
    "floor of complex numbers": lambda xp, x: np.floor(x + 1j),
    "remainder of complex numbers": lambda xp, x: (x + 1j) % 2,
    "arctan2 of complex numbers": lambda xp, x: np.arctan2(x + 1j, x),
    "round of text": lambda xp, x: np.floor(xp.asarray(["a"])),
    "add text": lambda xp, x: x + "a",
    "add None": lambda xp, x: x + None,
    "add dates": lambda xp, x: xp.asarray(["2000-01-01"], dtype="M8[D]") + xp.asarray(["2000-01-01"], dtype="M8[D]"),
    "sum of dates": lambda xp, x: xp.sum(xp.asarray(["2000-01-01"], dtype="M8[D]")),
    "mean of text": lambda xp, x: xp.mean(xp.asarray(["a"])),
    "sum of text": lambda xp, x: xp.sum(xp.asarray(["a"])),
    "integer beyond its type": lambda xp, x: xp.asarray([1], dtype="uint8") + 300,
    "negative integer for an unsigned type": lambda xp, x: xp.asarray([1], dtype="uint8") * -1,
    "unsafe cast": lambda xp, x: x.astype(int, casting="safe"),
    "unknown dtype": lambda xp, x: x.astype("nonsense"),
    "unknown rule of casting": lambda xp, x: x.astype(int, casting="nonsense"),
    "in-place to another kind": lambda xp, x: np.add(x, 1j, out=xp.zeros_like(x)),
    "in-place to another shape": lambda xp, x: np.add(x, 1, out=xp.zeros(5)),
    "in-place division of integers": lambda xp, x: np.divide(1, xp.asarray([1, 2]), out=xp.asarray([0, 0])),
    "where that is no boolean": lambda xp, x: np.add(x, 1, where=x),
    "where of another shape": lambda xp, x: np.add(x, 1, where=mask(5)),
    "ufunc with a dtype that it has not": lambda xp, x: np.add(x, 1, dtype="int8"),
    "ufunc with too few arguments": lambda xp, x: np.add(x),
    "ufunc with an unknown option": lambda xp, x: np.add(x, 1, nonsense=1),
    "function with an unknown option": lambda xp, x: xp.sum(x, nonsense=1),
    "take with text": lambda xp, x: xp.take(x, np.array(["a"])),
    "choose out of range": lambda xp, x: xp.choose(xp.asarray([0.5]), [x]),
    "digitize by what is not sorted": lambda xp, x: xp.digitize(x, [1, 3, 2]),
    "view of another size": lambda xp, x: x[:, :3].view("complex128"),
    "isdtype of an unknown kind": lambda xp, x: xp.isdtype(x.dtype, "nonsense"),
    "finfo of integers": lambda xp, x: xp.finfo(int),
    "iinfo of floats": lambda xp, x: xp.iinfo(float),
    "isnan of text": lambda xp, x: xp.isnan(xp.asarray(["a"])),
    "matmul with text": lambda xp, x: x @ xp.asarray(["a", "b", "c", "d"]),
    "concatenate with a cast that is not allowed": lambda xp, x: xp.concatenate([x, x], dtype=int, casting="safe"),
    "outer of what cannot be multiplied": lambda xp, x: np.multiply.outer(x, xp.asarray(["a"])),
    "where of numbers and dates": lambda xp, x: xp.where(x > 0, x, np.array("2000", "M8[Y]")),
}


# What only the values show: the error comes when they are computed.
LATE = {
    "sort of objects that do not compare": lambda xp, x: xp.sort(xp.asarray(np.array([1, "a", None], object))),
    "maximum of objects that do not compare": lambda xp, x: xp.max(xp.asarray(np.array([1, "a"], object))),
    "sum of objects that do not add": lambda xp, x: xp.sum(xp.asarray(np.array([1, "a"], object))),
    "lazy index out of bounds": lambda xp, x: x[xp.asarray([0, 3])],
    "lazy index out of bounds, negative": lambda xp, x: x[:, xp.asarray([-5])],
    "lazy points out of bounds": lambda xp, x: x[xp.asarray([0, 1]), xp.asarray([0, 4])],
    "take_along_axis out of bounds": lambda xp, x: xp.take_along_axis(x, xp.asarray([[4]]), axis=1),
    "choose beyond the choices": lambda xp, x: xp.choose(xp.asarray([0, 2]), [x[0, 0], x[0, 1]]),
    "lazy repeats that are negative": lambda xp, x: xp.repeat(x, xp.asarray([1, -1, 1]), axis=0),
    "lengths that differ": lambda xp, x: x[x > 1] + x[x > 5],
    "argmax of nothing but NaN": lambda xp, x: xp.nanargmax(x * np.nan),
    "maximum of nothing after all": lambda xp, x: xp.max(x[x > 100]),
    "powers of integers below zero": lambda xp, x: xp.asarray([1, 2]) ** xp.asarray([-1, -2]),
    "text that is no number": lambda xp, x: xp.asarray(["one"]).astype(float),
    "text that is no date": lambda xp, x: xp.asarray(["one"]).astype("M8[D]"),
    "None as a number": lambda xp, x: xp.asarray(np.array([None])).astype(int),
}


@pytest.fixture(scope="module")
def values():
    return np.arange(12.0).reshape(3, 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_the_class_is_numpys(name, values):
    call = CALLS[name]
    with pytest.raises(Exception) as expected:
        call(np, values)
    kind = TypeError if issubclass(expected.type, TypeError) else expected.type
    with pytest.raises(Exception) as found:
        call(ta, ta.from_array(values, chunks=2))
    assert isinstance(found.value, kind), f"{found.value!r} where NumPy has {expected.value!r}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LATE)
def test_the_class_is_numpys_when_it_runs(name, values):
    with pytest.raises(Exception) as expected:
        LATE[name](np, values)
    lazy = LATE[name](ta, ta.from_array(values, chunks=2))
    with pytest.raises(Exception) as found:
        lazy.compute(scheduler="sync")
    assert isinstance(found.value, expected.type), f"{found.value!r} where NumPy has {expected.value!r}"
