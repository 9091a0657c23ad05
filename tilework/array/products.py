"""Products of arrays: matmul, dot, tensordot, einsum and their relatives.

All are one construction. Every pair of blocks that meet is multiplied by one call of NumPy (of BLAS, where the dtype
allows), each contracted axis left behind with length one; then a tree reduction adds up what lies along those axes.
Memory stays bounded by a few blocks, however long the contracted axes are. Short blocks of matrices are joined first,
up to :data:`PANEL`, as BLAS wants them, and the product is cut back. Where two small blocks would make a huge one (an
outer product), the operands are cut first: blocks of a product have the operands' sizes along each axis, and smaller
ones where they would exceed the setting ``chunk_size``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, isqrt, prod
from string import ascii_letters
from typing import Any, TypeAlias

import numpy as np

from tilework.array.core import Array
from tilework.array.creation import asarray
from tilework.array.order import block_limit
from tilework.base.errors import DTypeError, PlanError
from tilework.plan import blocks, build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.reductions import Reduction

Labels: TypeAlias = tuple[Hashable, ...]
Operand: TypeAlias = tuple[ArrayNode, Labels]

SPLIT_EVERY = 4
"""Partial products that are added at a time. They are as large as blocks of the result, so only few are held."""

MATRIX_LIKE = 256
"""Products that an element stands in, from which on it pays to join blocks for BLAS."""

EDGE = 1024
"""Rows (or columns) up to which blocks are joined that make a block of the result."""

PANEL = 32 << 20
"""Bytes up to which blocks of an operand are joined along contracted axes."""

LONGEST_LOOP = 4096
"""Terms that einsum's own loop may add up one after another in one element."""


def matmul(a: Any, b: Any) -> Array:
    """Matrix product over the last two axes, the others broadcast, as :func:`numpy.matmul`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.matmul(ta.ones((2, 3), chunks=1), ta.ones((3, 2), chunks=2)).compute()
    array([[3., 3.],
           [3., 3.]])
    """
    a, b = asarray(a), asarray(b)
    if not a.ndim or not b.ndim:
        raise PlanError("matmul: an operand has no dimensions; use * for products with scalars")
    left = ("k",) if a.ndim == 1 else (*range(a.ndim - 3, -1, -1), "i", "k")
    right = ("k",) if b.ndim == 1 else (*range(b.ndim - 3, -1, -1), "k", "j")
    _check_core("matmul", a.shape, -1, b.shape, -1 if b.ndim == 1 else -2)
    batch = range(max(a.ndim, b.ndim) - 3, -1, -1)
    out = (*batch, *left[-2:-1], *right[-1:]) if b.ndim > 1 else (*batch, *left[-2:-1])
    return _contract(np.matmul, [(a.node, left), (b.node, right)], out, np.result_type(a.dtype, b.dtype), "matmul")


def tensordot(a: Any, b: Any, axes: Any = 2) -> Array:
    """Sum of products over given axes, as :func:`numpy.tensordot`.

    Parameters
    ----------
    a, b
        The arrays.
    axes
        How many of the last axes of ``a`` and first of ``b``, or a pair: axes of ``a`` and the axes of ``b`` to match.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.ones((4, 3, 2), chunks=2)
    >>> ta.tensordot(x, x, axes=((0, 1), (0, 1))).compute()
    array([[12., 12.],
           [12., 12.]])
    """
    a, b = asarray(a), asarray(b)
    left, right = _tensordot_axes(a, b, axes)
    labels_a: list[Hashable] = [("a", k) for k in range(a.ndim)]
    labels_b: list[Hashable] = [("b", k) for k in range(b.ndim)]
    for n, (i, j) in enumerate(zip(left, right, strict=True)):
        _check_core("tensordot", a.shape, i, b.shape, j)
        labels_a[i] = labels_b[j] = ("k", n)
    out = tuple(label for label in (*labels_a, *labels_b) if label[0] != "k")  # type: ignore[index]
    operands = [(a.node, tuple(labels_a)), (b.node, tuple(labels_b))]
    dtype = np.result_type(a.dtype, b.dtype)
    return _contract(_Einsum.of([labels for _, labels in operands], out, dtype), operands, out, dtype, "tensordot")


def dot(a: Any, b: Any) -> Array:
    """Product over the last axis of ``a`` and the last but one of ``b``, as :func:`numpy.dot`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.dot(ta.arange(4, chunks=2), ta.arange(4, chunks=2)).compute()
    np.int64(14)
    """
    a, b = asarray(a), asarray(b)
    if not a.ndim or not b.ndim:
        return Array(build.elementwise(np.multiply, [a.node, b.node], label="dot"))
    return tensordot(a, b, axes=((a.ndim - 1,), (max(0, b.ndim - 2),)))


def inner(a: Any, b: Any) -> Array:
    """Product over the last axes, as :func:`numpy.inner`."""
    a, b = asarray(a), asarray(b)
    if not a.ndim or not b.ndim:
        return Array(build.elementwise(np.multiply, [a.node, b.node], label="inner"))
    return tensordot(a, b, axes=((a.ndim - 1,), (b.ndim - 1,)))


def outer(a: Any, b: Any) -> Array:
    """All products of an element of ``a`` and one of ``b``, both flattened, as :func:`numpy.outer`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> ta.outer(ta.arange(3, chunks=2), ta.arange(2)).compute()
    array([[0, 0],
           [0, 1],
           [0, 2]])
    """
    nodes = [_flat(asarray(x)) for x in (a, b)]
    dtype = np.result_type(*(node.dtype for node in nodes))
    (x, _), (y, _) = _limited([(nodes[0], ("i",)), (nodes[1], ("j",))], ("i", "j"), dtype)
    columns, rows = build.rearrange(x, (0, None)), build.rearrange(y, (None, 0))
    return Array(build.elementwise(np.multiply, [columns, rows], label="outer"))


def vdot(a: Any, b: Any) -> Array:
    """Sum of products of all elements, the first ones conjugated, as :func:`numpy.vdot`."""
    x, y = asarray(a), asarray(b)
    nodes = [x.node, y.node] if x.shape == y.shape else [_flat(x), _flat(y)]
    if prod(nodes[0].shape) != prod(nodes[1].shape):
        raise PlanError(f"vdot: arrays of shapes {x.shape} and {y.shape} do not have equally many elements")
    labels = tuple(range(nodes[0].ndim))
    return _contract(np.vdot, [(node, labels) for node in nodes], (), np.result_type(x.dtype, y.dtype), "vdot")


def vecdot(x1: Any, x2: Any, axis: int = -1) -> Array:
    """Sums of products along one axis, the first factors conjugated, as :func:`numpy.vecdot`."""
    a, b = asarray(x1), asarray(x2)
    nodes = []
    for x in (a, b):
        k = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
        nodes.append(build.rearrange(x.node, [j for j in range(x.ndim) if j != k] + [k]))
    _check_core("vecdot", nodes[0].shape, -1, nodes[1].shape, -1)
    operands = [(node, (*range(node.ndim - 2, -1, -1), "k")) for node in nodes]
    out = tuple(range(max(a.ndim, b.ndim) - 2, -1, -1))
    return _contract(_vecdot, operands, out, np.result_type(a.dtype, b.dtype), "vecdot")


def einsum(
    *operands: Any, dtype: Any = None, optimize: Any = True, split_every: int | None = None, casting: str = "safe",
    order: str = "K", out: None = None,
) -> Array:  # fmt: skip
    """Products summed as the subscripts say, as :func:`numpy.einsum`.

    Parameters
    ----------
    *operands
        Subscripts and arrays, or arrays and lists of axis numbers in turn.
    dtype
        Type to calculate in.
    optimize
        Contract more than two arrays pair by pair, in the order that :func:`numpy.einsum_path` finds (or is given).
        False: all at once.
    split_every
        How many partial sums are added at a time.
    casting
        Which conversions to ``dtype`` are allowed.
    order
        Without effect.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.arange(6, chunks=4).reshape(2, 3)
    >>> ta.einsum("ij,kj->ik", x, x).compute()
    array([[ 5, 14],
           [14, 50]])
    """
    if out is not None:
        raise PlanError("einsum: out= is not possible; arrays are lazy")
    arrays, labels, result = _einsum_arguments(operands)
    wanted = np.result_type(*(x.dtype for x in arrays)) if dtype is None else np.dtype(dtype)
    for x in arrays:
        if not np.can_cast(x.dtype, wanted, casting):  # type: ignore[arg-type]
            raise PlanError(f"einsum: {x.dtype} cannot be cast to {wanted} with casting={casting!r}")
    left: list[Operand] = [(x.node, names) for x, names in zip(arrays, labels, strict=True)]
    for step in _einsum_steps(left, result, optimize):
        picked = [left[k] for k in step]
        left = [operand for k, operand in enumerate(left) if k not in step]
        needed = {name for _, names in left for name in names} | set(result)
        to = result if not left else tuple(dict.fromkeys(n for _, names in picked for n in names if n in needed))
        product = _contract(_Einsum.of([n for _, n in picked], to, wanted), picked, to, wanted, "einsum", split_every)
        left.append((product.node, to))
    return Array(left[0][0])


# ---------------------------------------------------------------- the one construction


def _contract(
    product: Callable[..., np.ndarray], operands: Sequence[Operand], out: Labels, dtype: np.dtype[Any], label: str,
    split_every: int | None = None,
) -> Array:  # fmt: skip
    """``product`` of the blocks that meet, summed over the labels that are not in ``out``."""
    if dtype.kind in "SUV":
        raise DTypeError(f"{label}: elements of dtype {dtype} cannot be multiplied; use numbers")
    operands = _limited(_aligned(operands), out, dtype)
    chunks = _chunks_of(operands)
    operands = _joined(operands, out)
    grid: dict[Hashable, int] = {}
    for operand, labels in operands:
        for name, n in zip(labels, operand.grid, strict=True):
            grid[name] = max(n, grid.get(name, 1))
    chunked = tuple(name for name, n in grid.items() if name not in out and n > 1)
    slots = tuple(Slot(k) for k in range(len(operands)))
    function = BlockFunction(_Partial(product, len(chunked)) if chunked else product, slots)
    node: ArrayNode = build.blockwise(
        function, (*chunked, *out), operands, dtype, adjust_chunks=dict.fromkeys(chunked, 1), label=label
    )
    if chunked:
        total = Reduction(label, _add, _add, _same, partial_itemsize=node.dtype.itemsize)
        node = build.reduce(node, total, range(len(chunked)), dtype, split_every=split_every or SPLIT_EVERY)
    return Array(build.rechunk(node, tuple(chunks[name] for name in out)))


def _aligned(operands: Sequence[Operand]) -> Sequence[Operand]:
    """Operands in common chunks: those of the heaviest that has the axis, for it is the dearest to rechunk."""
    return _follow(operands, _chunks_of(sorted(operands, key=lambda operand: _weight(operand[0]))))


def _chunks_of(operands: Sequence[Operand]) -> dict[Hashable, AxisChunks]:
    """Chunks by label: those of the last operand that has the axis and does not broadcast along it."""
    chunks: dict[Hashable, AxisChunks] = {}
    for node, labels in operands:
        for name, axis in zip(labels, node.chunks, strict=True):
            if axis.total != 1 or name not in chunks:
                chunks[name] = axis
    return chunks


def _follow(operands: Sequence[Operand], chunks: Mapping[Hashable, AxisChunks]) -> Sequence[Operand]:
    """Operands in these chunks, but for axes of length one that broadcast, and of unknown length."""
    followed = []
    for node, labels in operands:
        wanted = tuple(
            chunks[name] if axis.known and axis.total == chunks[name].total else axis
            for name, axis in zip(labels, node.chunks, strict=True)
        )
        followed.append((build.rechunk(node, wanted), labels))
    return followed


def _weight(node: ArrayNode) -> int:
    return prod(axis.total for axis in node.chunks if axis.known) * node.dtype.itemsize


def _limited(operands: Sequence[Operand], out: Labels, dtype: np.dtype[Any]) -> Sequence[Operand]:
    """Operands in smaller blocks if blocks of the product would be larger than theirs and than a block should be."""
    largest: dict[Hashable, int] = {}
    for node, labels in operands:
        for name, axis in zip(labels, node.chunks, strict=True):
            if name in out and axis.known:
                largest[name] = max(axis.largest, largest.get(name, 1))
    weights = [prod(a.largest for a in node.chunks if a.known) * node.dtype.itemsize for node, _ in operands]
    limit = max(block_limit(), *weights)
    weight = prod(largest.values()) * dtype.itemsize
    if weight <= limit:
        return operands
    factor = (limit / weight) ** (1 / sum(size > 1 for size in largest.values()))
    smaller = []
    for node, labels in operands:
        chunks = tuple(
            blocks.regroup(axis, max(1, int(largest[name] * factor)))
            if name in largest and axis.largest > largest[name] * factor
            else axis
            for name, axis in zip(labels, node.chunks, strict=True)
        )
        smaller.append((build.rechunk(node, chunks), labels))
    return smaller


def _joined(operands: Sequence[Operand], out: Labels) -> Sequence[Operand]:
    """Two operands with short blocks joined, if they meet as matrices do: each element in hundreds of products.

    BLAS wants long blocks, and each block along a contracted axis costs another partial product that is written, read
    and added up. Joining copies the operands once at most; where elements meet few others (a matrix and a vector) that
    is what the product itself costs. A product of 4000 x 4000 matrices in blocks of 500 takes a third less time so.
    """
    chunks = _chunks_of(operands)
    elements = sum(prod(node.shape) for node, _ in operands)
    if len(operands) != 2 or not prod(axis.total for axis in chunks.values()) > MATRIX_LIKE * elements:
        return operands  # here, too, where a size is NaN
    panel = min(PANEL, block_limit())
    longest = min(EDGE, isqrt(panel // max(node.dtype.itemsize for node, _ in operands)))
    for (_, mine), (_, others) in (operands, operands[::-1]):
        free = [name for name in dict.fromkeys(mine) if name not in others]
        for name in free:
            edge = prod(chunks[n].largest for n in free)
            chunks[name] = blocks.regroup(chunks[name], chunks[name].largest * max(1, longest // edge))
    for name in [name for name in chunks if name not in out]:
        weights = [prod(chunks[n].largest for n in labels) * node.dtype.itemsize for node, labels in operands]
        room = panel // max(weights)
        chunks[name] = blocks.regroup(chunks[name], chunks[name].largest * max(1, room))
    return _follow(operands, chunks)


@dataclass(frozen=True, slots=True)
class _Partial:
    """A product with leading axes of length one, along which its kind will be added up.

    Leading, because there the partial products can be joined and added without striding through memory.
    """

    product: Callable[..., np.ndarray]
    ndim: int

    def __call__(self, *operands: np.ndarray) -> np.ndarray:
        return np.asarray(self.product(*operands))[(None,) * self.ndim]


def _add(partial: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    """The sum in the dtype that it has: what NumPy's products do, too. Truth values are joined by "or"."""
    if all(partial.shape[a] == 1 for a in axis):
        return partial
    return np.add.reduce(partial, axis=axis, dtype=partial.dtype, keepdims=True)


def _same(partial: np.ndarray) -> np.ndarray:
    return partial


def _vecdot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i->...", a.conj(), b)


def _check_core(label: str, left: tuple[Any, ...], i: int, right: tuple[Any, ...], j: int) -> None:
    """Axes that are summed over do not broadcast."""
    if left[i] != right[j] and not isnan(left[i] + right[j]):
        raise PlanError(f"{label}: axis {i} of {left} and axis {j} of {right} differ in length")


def _flat(x: Array) -> ArrayNode:
    return x.node if x.ndim == 1 else build.reshape(x.node, (prod(x.shape),))


def _tensordot_axes(a: Array, b: Array, axes: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if isinstance(axes, Iterable):
        left, right = axes
        pair = [tuple(x) if isinstance(x, Iterable) else (x,) for x in (left, right)]
    else:
        n = int(axes)
        if not 0 <= n <= min(a.ndim, b.ndim):
            raise PlanError(f"tensordot: axes={axes} for arrays of {a.ndim} and {b.ndim} dimensions")
        pair = [tuple(range(a.ndim - n, a.ndim)), tuple(range(n))]
    if len(pair[0]) != len(pair[1]):
        raise PlanError(f"tensordot: axes={axes!r} pair {len(pair[0])} axes with {len(pair[1])}")
    normalize = np.lib.array_utils.normalize_axis_tuple
    return normalize(pair[0], a.ndim), normalize(pair[1], b.ndim)


# ---------------------------------------------------------------- einsum's language


@dataclass(frozen=True, slots=True)
class _Einsum:
    """``np.einsum`` of blocks, in the fastest of its ways.

    Blocks are often views (transposed, or parts of a larger array), and BLAS must not be the reason to copy them: a
    product with a vector costs no more than reading the matrix once. So axes are put in the order in which they lie
    in memory, and a short product with a vector goes to BLAS only if that can take the matrix as it is. Otherwise
    einsum's own loop is nearly as fast. Long sums always go to BLAS: einsum adds one term after another, and rounding
    errors add up (4e-5 for 400,000 float32 numbers, where BLAS has 2e-7).
    """

    inputs: tuple[str, ...]
    output: str
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, labels: Sequence[Labels], out: Labels, dtype: np.dtype[Any]) -> _Einsum:
        """Subscripts with single letters for labels of any kind."""
        letters = dict(zip(dict.fromkeys(name for names in labels for name in names), ascii_letters, strict=False))
        *inputs, output = ("".join(letters[name] for name in names) for names in (*labels, out))
        return cls(tuple(inputs), output, dtype)

    @property
    def subscripts(self) -> str:
        return f"{','.join(self.inputs)}->{self.output}"

    def __call__(self, *operands: np.ndarray) -> np.ndarray:
        words, blocks_ = [], []
        for word, x in zip(self.inputs, operands, strict=True):
            order = sorted(range(x.ndim), key=lambda k, x=x: -abs(x.strides[k]))  # type: ignore[misc]
            words.append("".join(word[k] for k in order))
            blocks_.append(x.astype(self.dtype, copy=False).transpose(order))
        blas = len(blocks_) == 2 and all(
            x.flags.c_contiguous and (word.startswith(vector) or word.endswith(vector))
            for vector, word, x in zip(words[::-1], words, blocks_, strict=True)
            if not set(vector) & set(self.output)
        )
        sizes = {name: n for word, x in zip(words, blocks_, strict=True) for name, n in zip(word, x.shape, strict=True)}
        terms = prod(n for name, n in sizes.items() if name not in self.output)
        return np.asarray(
            np.einsum(f"{','.join(words)}->{self.output}", *blocks_, optimize=blas or terms > LONGEST_LOOP)
        )


def _einsum_arguments(operands: Sequence[Any]) -> tuple[list[Array], list[Labels], Labels]:
    """Arrays, the labels of their axes, and those of the result, with ellipses resolved."""
    if not operands:
        raise PlanError("einsum: no operands; give subscripts and arrays")
    result: list[Any] | None = None
    if isinstance(operands[0], str):
        arrays = [asarray(x) for x in operands[1:]]
        spaceless = operands[0].replace(" ", "")
        inputs, arrow, output = spaceless.partition("->")
        names = [_subscripts(part, spaceless) for part in inputs.split(",")]
        result = _subscripts(output, spaceless) if arrow else None
    else:
        arrays = [asarray(x) for x in operands[: len(operands) // 2 * 2 : 2]]
        names = [list(labels) for labels in operands[1::2]]
        result = list(operands[-1]) if len(operands) % 2 else None
    if len(names) != len(arrays):
        raise PlanError(f"einsum: {len(names)} subscripts are given for {len(arrays)} arrays")
    labels = [_resolve(part, x.ndim) for part, x in zip(names, arrays, strict=True)]
    rest = sorted({n for part in labels for n in part if isinstance(n, _Rest)}, key=lambda n: -n.place)
    flat: list[Any] = [name for part in labels for name in part]
    if result is None:
        single = sorted({n for n in flat if not isinstance(n, _Rest) and flat.count(n) == 1})
        return arrays, labels, (*rest, *single)
    out = tuple(n for name in result for n in (rest if name is Ellipsis else [name]))
    if rest and Ellipsis not in result:
        raise PlanError("einsum: the output lacks the ellipsis that stands for axes of the operands")
    for name in out:
        if name not in flat:
            raise PlanError(f"einsum: {name!r} stands in the output, but in no operand")
        if out.count(name) > 1:
            raise PlanError(f"einsum: {name!r} stands in the output more than once")
    return arrays, labels, out


@dataclass(frozen=True, slots=True)
class _Rest:
    """An axis that an ellipsis stands for, counted from the last one."""

    place: int


def _subscripts(part: str, whole: str) -> list[Any]:
    """Letters, and Ellipsis for three dots."""
    before, dots, after = part.partition("...")
    names = [*before, *([Ellipsis] if dots else []), *after]
    for name in names:
        if name is not Ellipsis and name not in ascii_letters:
            raise PlanError(f"einsum: {name!r} in {whole!r} is no subscript; use letters, one '->' and one '...' each")
    return names


def _resolve(names: Sequence[Any], ndim: int) -> Labels:
    """Names with the ellipsis replaced by the axes that it stands for."""
    if Ellipsis not in names:
        if len(names) != ndim:
            raise PlanError(f"einsum: {len(names)} subscripts are given for an array of {ndim} dimensions")
        return tuple(names)
    k, n = names.index(Ellipsis), ndim - len(names) + 1
    if n < 0:
        raise PlanError(f"einsum: {len(names) - 1} subscripts are given for an array of {ndim} dimensions")
    return (*names[:k], *(_Rest(place) for place in range(n - 1, -1, -1)), *names[k + 1 :])


def _einsum_steps(operands: Sequence[Operand], out: Labels, optimize: Any) -> list[tuple[int, ...]]:
    """Which operands to contract together, step by step; a product goes to the end of the list."""
    if len(operands) <= 2 or optimize is False:
        return [tuple(range(len(operands)))]
    fakes = [
        np.broadcast_to(np.empty((), node.dtype), [1000 if isnan(n) else n for n in node.shape]) for node, _ in operands
    ]
    subscripts = _Einsum.of([labels for _, labels in operands], out, np.dtype(float)).subscripts
    path, _ = np.einsum_path(subscripts, *fakes, optimize=optimize)
    return [tuple(step) for step in path[1:]]


__all__ = ["dot", "einsum", "inner", "matmul", "outer", "tensordot", "vdot", "vecdot"]
