"""Random programs: the same steps done by NumPy and by tilework come to the same numbers.

All numbers are small integers, whatever their dtype, so that sums are exact in any order and results can be compared
for equality; what grows too large is brought back by a remainder. Where NumPy refuses a step, tilework has to as well,
with an error of the same class; where the length of an axis is unknown, it may refuse more.

More examples than a test run has time for: ``python tests/array/test_programs.py 5000 [seed]``.
"""

import sys
import warnings

import hypothesis
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import tilework as tw
import tilework.array as ta
from tilework.base.errors import InternalError, UnknownChunksError, UnsupportedError
from tilework.testing import assert_eq
from tilework.testing.strategies import arrays, chunks

DTYPES = ("int64", "int32", "int8", "uint8", "float64", "float32", "bool", "complex128")
LARGE = 1000  # numbers
MANY = 3000  # elements
ALLOWED = (UnsupportedError, UnknownChunksError)


def is_known(x):
    return all(n == n for n in x.shape)


# ---------------------------------------------------------------- steps
#
# Each draws what it needs for the array ``a`` and returns a function of (namespace, array, other arrays), and its text.

UNARY = "negative abs square sign isfinite logical_not invert positive real imag conj floor rint isnan signbit"
BINARY = (
    "add subtract multiply maximum minimum equal not_equal less greater_equal logical_and logical_xor bitwise_and "
    "bitwise_or fmax copysign"
)
REDUCTIONS = "sum max min any all count_nonzero nansum nanmax argmax nanargmin"
SCALARS = (2, 3, -1, True, 2.0, np.float32(4), np.int8(3), np.uint8(7), np.int64(5), 1j)


def axis_of(draw, a):
    assume(a.ndim)
    return draw(st.integers(-a.ndim, a.ndim - 1))


def other(draw, others):
    return draw(st.integers(0, len(others) - 1))


def unary(draw, a, others):
    name = draw(st.sampled_from(UNARY.split()))
    return (lambda xp, x, o: getattr(xp, name)(x)), name


def with_scalar(draw, a, others):
    name = draw(st.sampled_from([*BINARY.split(), "floor_divide", "remainder"]))
    scalar = draw(st.sampled_from(SCALARS))
    if name not in ("floor_divide", "remainder") and draw(st.booleans()):
        return (lambda xp, x, o: getattr(xp, name)(scalar, x)), f"{name}({scalar!r}, x)"
    return (lambda xp, x, o: getattr(xp, name)(x, scalar)), f"{name}(x, {scalar!r})"


def with_other(draw, a, others):
    name, k = draw(st.sampled_from(BINARY.split())), other(draw, others)
    if draw(st.booleans()):
        return (lambda xp, x, o: getattr(xp, name)(o[k], x)), f"{name}(o[{k}], x)"
    return (lambda xp, x, o: getattr(xp, name)(x, o[k])), f"{name}(x, o[{k}])"


def with_numpy(draw, a, others):
    name = draw(st.sampled_from(["add", "multiply", "less", "minimum"]))
    shape = draw(npst.broadcastable_shapes(a.shape, max_dims=3, max_side=4))
    plain = (np.arange(np.prod(shape, dtype=int)).reshape(shape) % 7).astype(draw(st.sampled_from(DTYPES)))
    return (lambda xp, x, o: getattr(xp, name)(x, plain)), f"{name}(x, {plain.dtype}{shape})"


def where(draw, a, others):
    k, limit = other(draw, others), draw(st.integers(-3, 8))
    return draw(
        st.sampled_from(
            [
                (lambda xp, x, o: xp.where(x > limit, x, o[k]), f"where(x > {limit}, x, o[{k}])"),
                (lambda xp, x, o: xp.where(o[k] > limit, x, limit), f"where(o[{k}] > {limit}, x, {limit})"),
                (lambda xp, x, o: xp.clip(x, -abs(limit), 5), f"clip(x, {-abs(limit)}, 5)"),
                (lambda xp, x, o: np.add(x, x, where=x > 2, out=xp.zeros_like(x)), "add(x, x, where=x > 2, out=0)"),
            ]
        )
    )


def cast(draw, a, others):
    dtype = draw(st.sampled_from(DTYPES))
    return (lambda xp, x, o: x.astype(dtype)), f"astype({dtype})"


def reduction(draw, a, others):
    name = draw(st.sampled_from(REDUCTIONS.split()))
    axes = st.none() if not a.ndim else st.none() | st.integers(-a.ndim, a.ndim - 1)
    if a.ndim and "arg" not in name:
        axes |= st.lists(st.integers(0, a.ndim - 1), unique=True).map(tuple)
    options = {"axis": draw(axes), "keepdims": draw(st.booleans())}
    if name in ("sum", "any", "all") and draw(st.booleans()):
        return (lambda xp, x, o: getattr(xp, name)(x, where=x > 1, **options)), f"{name}({options}, where=x > 1)"
    return (lambda xp, x, o: getattr(xp, name)(x, **options)), f"{name}({options})"


def against_reduction(draw, a, others):
    name, axis = draw(st.sampled_from(["sum", "max", "min"])), draw(st.none() | st.integers(0, max(0, a.ndim - 1)))
    return (lambda xp, x, o: x - getattr(xp, name)(x, axis=axis, keepdims=True)), f"x - {name}(axis={axis})"


def scan(draw, a, others):
    name, axis = draw(st.sampled_from(["cumsum", "nancumsum", "diff"])), axis_of(draw, a)
    return draw(
        st.sampled_from(
            [
                (lambda xp, x, o: getattr(xp, name)(x, axis=axis), f"{name}({axis})"),
                (lambda xp, x, o: np.maximum.accumulate(x, axis=axis), f"maximum.accumulate({axis})"),
                (lambda xp, x, o: xp.cumulative_sum(x, axis=axis, include_initial=True), f"cumulative_sum({axis})"),
                (lambda xp, x, o: xp.cumsum(x), "cumsum()"),
            ]
        )
    )


def reshape(draw, a, others):
    rest, shape = a.size, []
    for _ in range(draw(st.integers(0, 3))):
        n = draw(st.sampled_from([d for d in range(1, min(rest, 24) + 1) if rest % d == 0] or [1, 2, 0]))
        shape.append(n)
        rest = rest // n if n else rest
    shape.insert(draw(st.integers(0, len(shape))), -1)
    order = draw(st.sampled_from(["C", "C", "F"]))
    return (lambda xp, x, o: x.reshape(tuple(shape), order=order)), f"reshape({shape}, {order!r})"


def rearrange(draw, a, others):
    axis, to = axis_of(draw, a), axis_of(draw, a)
    order, by = draw(st.permutations(range(a.ndim))), draw(st.integers(-9, 9))
    grown = (draw(st.integers(0, 3)), *(3 if n == 1 else n for n in a.shape))
    return draw(
        st.sampled_from(
            [
                (lambda xp, x, o: xp.ravel(x), "ravel()"),
                (lambda xp, x, o: xp.transpose(x, order), f"transpose({order})"),
                (lambda xp, x, o: xp.expand_dims(x, axis), f"expand_dims({axis})"),
                (lambda xp, x, o: xp.squeeze(x), "squeeze()"),
                (lambda xp, x, o: xp.broadcast_to(x, grown), f"broadcast_to({grown})"),
                (lambda xp, x, o: xp.flip(x, axis), f"flip({axis})"),
                (lambda xp, x, o: xp.roll(x, by, axis), f"roll({by}, {axis})"),
                (lambda xp, x, o: xp.roll(x, by), f"roll({by})"),
                (lambda xp, x, o: xp.moveaxis(x, axis, to), f"moveaxis({axis}, {to})"),
                (lambda xp, x, o: xp.repeat(x, by % 3, axis), f"repeat({by % 3}, {axis})"),
                (lambda xp, x, o: xp.tile(x, (2, by % 3)), f"tile((2, {by % 3}))"),
                (lambda xp, x, o: xp.tril(x, by), f"tril({by})"),
                (lambda xp, x, o: xp.diagonal(x, by % 3, axis, to), f"diagonal({by % 3}, {axis}, {to})"),
            ]
        )
    )


def pad(draw, a, others):
    mode = draw(st.sampled_from(["constant", "edge", "wrap", "reflect", "symmetric", "maximum"]))
    width = [(draw(st.integers(0, 3)), draw(st.integers(0, 3))) for _ in a.shape]
    assume(width)
    return (lambda xp, x, o: xp.pad(x, width, mode=mode)), f"pad({width}, {mode!r})"


def join(draw, a, others):
    axis, k = axis_of(draw, a), other(draw, others)
    n = a.shape[axis]
    at = draw(st.integers(-n, n))
    gone = draw(st.lists(st.integers(0, n - 1)) | st.slices(n)) if n else []
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=3)))
    part = draw(st.integers(0, len(cuts)))
    return draw(
        st.sampled_from(
            [
                (lambda xp, x, o: xp.concatenate([x, xp.where(x, x, 0)], axis=axis), f"concatenate(x, x, {axis})"),
                (lambda xp, x, o: xp.concatenate([x, o[k], x], axis=axis), f"concatenate(x, o[{k}], x, {axis})"),
                (lambda xp, x, o: xp.stack([x, x * 2], axis=axis), f"stack(x, 2 x, {axis})"),
                (lambda xp, x, o: xp.append(x, x[:1], axis=0), "append(x[:1])"),
                (lambda xp, x, o: xp.insert(x, at, 1, axis=axis), f"insert({at}, {axis})"),
                (lambda xp, x, o: xp.delete(x, gone, axis=axis), f"delete({gone}, {axis})"),
                (lambda xp, x, o: xp.split(x, cuts, axis=axis)[part], f"split({cuts}, {axis})[{part}]"),
            ]
        )
    )


def entry(draw, n):
    """Anything that may stand for an axis of length n."""
    kind = draw(st.sampled_from(["position", "positions", "mask", "slice", "slice"]))
    if kind == "position" and n:
        return draw(st.integers(-n, n - 1))
    if kind == "positions":
        return np.array(draw(st.lists(st.integers(-n, n - 1), max_size=5)) if n else [], int)
    return draw(npst.arrays(bool, n) if kind == "mask" else st.slices(n))


def index(draw, a, others):
    entries = draw(npst.basic_indices(a.shape, allow_newaxis=True, max_dims=4))
    if draw(st.booleans()):
        entries = tuple(entry(draw, n) for n in a.shape)
    return (lambda xp, x, o: x[entries]), f"[{entries}]"


def lazy_index(draw, a, others):
    limit, n = draw(st.integers(-3, 8)), a.shape[0] if a.ndim else 0
    places = draw(npst.arrays(int, st.integers(0, 5), elements=st.integers(-n, n - 1))) if n else np.zeros(0, int)
    return draw(
        st.sampled_from(
            [
                (lambda xp, x, o: x[x > limit], f"x[x > {limit}]"),
                (lambda xp, x, o: x[x.sum(axis=tuple(range(1, x.ndim))) > limit], f"x[rows > {limit}]"),
                (lambda xp, x, o: x[xp.asarray(places)], f"x[lazy {places}]"),
                (lambda xp, x, o: xp.flatnonzero(x), "flatnonzero()"),
            ]
        )
    )


def assign(draw, a, others):
    limit, entries = draw(st.integers(0, 5)), draw(npst.basic_indices(a.shape, allow_newaxis=True, max_dims=4))
    if draw(st.booleans()):
        entries = tuple(entry(draw, n) for n in a.shape)
    kind = draw(st.sampled_from(["mask", "number", "values"]))

    def assigned(xp, x, o):
        x = x.copy()
        if kind == "mask":
            x[x > limit] = limit
        else:
            x[entries] = limit if kind == "number" else x[entries] != 0
        return x

    return assigned, f"assign {kind} {entries} {limit}"


def product(draw, a, others):
    k, small = other(draw, others), a.size < 40
    assume(a.ndim)
    return draw(
        st.sampled_from(
            [
                (lambda xp, x, o: xp.matmul(x, o[k]), f"matmul(x, o[{k}])"),
                (lambda xp, x, o: xp.matmul(x, xp.swapaxes(x, 0, -1)), "matmul(x, x.T)"),
                (lambda xp, x, o: xp.dot(x, o[k]), f"dot(x, o[{k}])"),
                (lambda xp, x, o: xp.tensordot(x, x, axes=([0], [0])), "tensordot(x, x)"),
                (lambda xp, x, o: xp.einsum("...i,...i->...", x, x), "einsum(...i,...i->...)"),
                (lambda xp, x, o: xp.outer(x, x) if small else xp.vecdot(x, x), "outer or vecdot"),
            ]
        )
    )


def ordered(draw, a, others):
    axis = draw(st.sampled_from([*range(-a.ndim, a.ndim), None]))
    return draw(
        st.sampled_from(
            [
                (lambda xp, x, o: xp.sort(x, axis=axis), f"sort({axis})"),
                (lambda xp, x, o: xp.argsort(x, axis=axis, kind="stable"), f"argsort({axis})"),
                (lambda xp, x, o: xp.searchsorted(xp.sort(xp.ravel(x)), x), "searchsorted()"),
                (lambda xp, x, o: xp.isin(x, [1, 3, 4]), "isin()"),
                (lambda xp, x, o: xp.unique(x), "unique()"),
                (lambda xp, x, o: xp.take_along_axis(x, xp.argsort(x, axis, kind="stable"), axis), "take_along_axis()"),
            ]
        )
    )


def blocks(draw, a, others):
    """What only tilework has, and changes nothing or has a namesake."""
    sizes = draw(chunks(a.shape))
    turned = a.ndim and a.shape[0] > 1

    def unchanged(change):
        return lambda xp, x, o: change(x) if isinstance(x, ta.Array) else x

    return draw(
        st.sampled_from(
            [
                (unchanged(lambda x: x.rechunk(sizes)), f"rechunk({sizes})"),
                (unchanged(lambda x: x.persist(scheduler="sync")), "persist()"),
                (unchanged(lambda x: x.map_blocks(np.array, dtype=x.dtype)), "map_blocks()"),
                (
                    lambda xp, x, o: (
                        ta.map_overlap(np.roll, x, depth={0: 1}, boundary="periodic", shift=1, axis=0, dtype=x.dtype)
                        if turned and isinstance(x, ta.Array)
                        else np.roll(x, 1, 0)
                        if turned
                        else x
                    ),
                    "map_overlap(roll)",
                ),
            ]
        )
    )


STEPS = [
    unary, with_scalar, with_other, with_numpy, where, cast, reduction, against_reduction, scan, reshape, rearrange,
    pad, join, index, lazy_index, assign, product, ordered, blocks,
]  # fmt: skip


# ---------------------------------------------------------------- programs


def by_numpy(step, *given):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return np.asarray(step(np, *given))


def refused_alike(step, x, others, error):
    """NumPy raised ``error``: so must tilework, when the step is made or when it runs."""
    kind = TypeError if isinstance(error, TypeError) else type(error)
    with pytest.raises((kind, *ALLOWED) if is_known(x) else Exception) as found:
        step(ta, x, others).compute(scheduler="sync")
    assert not isinstance(found.value, InternalError)


def small(a, x):
    """The arrays, with small numbers."""
    if a.dtype.kind not in "ifc" or not a.size:
        return a, x
    if not np.isfinite(a).all():
        return np.asarray(np.isfinite(a)), ta.isfinite(x)
    if np.abs(a.astype(complex)).max() <= LARGE:
        return a, x
    return (np.asarray(a.real > 3), x.real > 3) if a.dtype.kind == "c" else (np.asarray(a % 17), x % 17)


@st.composite
def programs(draw):
    """Pairs of a NumPy array and the same as a lazy array, each made of the ones before, and the text of all steps."""
    pairs, text = [], []
    for _ in range(draw(st.integers(1, 2))):
        a, x = draw(arrays(DTYPES, max_side=5))
        if a.dtype.kind in "fc":
            a = np.asarray(np.trunc(a.real)).astype(a.dtype)
            x = ta.from_array(a, chunks=x.chunks)
        pairs.append((a, x))
        text.append(f"{a.dtype}{a.shape} in {tuple(map(tuple, x.chunks))}")
    for _ in range(draw(st.integers(1, 8))):
        a, x = pairs[-1]
        if not is_known(x) and draw(st.booleans()):
            x.compute_chunk_sizes()
        step, words = draw(st.sampled_from(STEPS))(draw, a, pairs)
        text.append(words)
        plain, lazy = ([pair[k] for pair in pairs] for k in (0, 1))
        try:
            b = by_numpy(step, a, plain)
        except Exception as error:
            text[-1] += " refused"
            refused_alike(step, x, lazy, error)
            continue
        try:
            y = step(ta, x, lazy)
        except ALLOWED:
            text[-1] += " not supported"
            continue
        if b.size <= MANY:
            pairs.append(small(b, y))
    return pairs, text


def check(pairs, text, data):
    a, x = pairs[-1]
    options = {
        "scheduler": data.draw(st.sampled_from(["sync", "threads"])),
        "optimize_graph": data.draw(st.booleans()),
    }
    b, y = pairs[data.draw(st.integers(0, len(pairs) - 1))]
    try:
        assert x.dtype == a.dtype
        assert_eq(x, a, rtol=0, atol=0)
        for found, expected in zip(tw.compute(x, y, **options), (a, b), strict=True):
            np.testing.assert_array_equal(found, expected)
    except ALLOWED:
        pass
    except Exception as error:
        error.add_note(f"program: {'; '.join(text)}; {options}")
        raise


def against_numpy(examples):
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(hypothesis.HealthCheck))
    @given(programs(), st.data())
    def run(program, data):
        check(*program, data)

    return run


test_programs = pytest.mark.filterwarnings("ignore")(against_numpy(60))


if __name__ == "__main__":
    many, seed = (int(argument) for argument in [*sys.argv[1:], "1000", "0"][:2])
    hypothesis.seed(seed)(against_numpy(many))()
