"""Random programs: optimized, lowered and run, they give what NumPy gives, operation by operation.

The interpreter below knows nothing of passes, stages or tasks. It takes the nodes as the builders made them, and whole
arrays; only where an operation is *about* blocks (functions of blocks, overlaps) it cuts the array into them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, product
from math import inf, isnan, nan, prod
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tilework import session
from tilework.array.core import Array
from tilework.base.errors import PlanError, UnknownChunksError
from tilework.base.tokens import unique_token
from tilework.delayed.core import Delayed
from tilework.engine import taskgraph
from tilework.engine.cluster.client.processes import ProcessesEngine
from tilework.engine.local.sync import SyncEngine
from tilework.engine.local.threads import ThreadsEngine
from tilework.engine.protocol import RunOptions
from tilework.io.memory import ArraySource, BlockSink, MemorySink
from tilework.optimize.keeping import repeatable
from tilework.optimize.lower import Lowered, lower
from tilework.optimize.pipeline import optimize
from tilework.optimize.scatter import in_passes
from tilework.plan import build, ops
from tilework.plan.blocks import AxisChunks, Chunks, normalize_chunks
from tilework.plan.graph import topological
from tilework.plan.indexing import normalize_slice
from tilework.plan.ops import ArrayNode, BlockFunction, Node, Slot
from tilework.plan.reductions import Reduction
from tilework.plan.spec import verify, verify_stages
from tilework.plan.stages import BlockPlace

MEMORY = 1 << 28

# ---------------------------------------------------------------- the reference


class Whole:
    """A value of the reference: the array, and its real block sizes (which a node may not know)."""

    def __init__(self, array: np.ndarray, sizes: Sequence[Sequence[int]]) -> None:
        self.array, self.sizes = array, [tuple(map(int, s)) for s in sizes]

    def region(self, index: Sequence[int]) -> tuple[slice, ...]:
        return tuple(slice(sum(s[:k]), sum(s[: k + 1])) for s, k in zip(self.sizes, index, strict=True))

    def block(self, index: Sequence[int]) -> np.ndarray:
        return self.array[self.region(index)]


def reference(outputs: Sequence[Node]) -> dict[Node, Any]:
    """The value of every node that the outputs need."""
    values: dict[Node, Any] = {}
    for node in topological(outputs):
        found = [values[i] for i in node.inputs]
        values[node] = EVALUATE[type(node)](node, *found)
        if isinstance(node, ArrayNode):
            assert values[node].array.dtype == node.dtype, node
            for real, said in zip(values[node].sizes, node.chunks, strict=True):
                assert len(real) == len(said)
                assert not said.known or real == said, node
    return values


def _source(node: ops.Source) -> Whole:
    whole = node.source.read(tuple(slice(0, n, 1) for n in node.source.shape))
    return Whole(whole[(*node.region, ...)].squeeze(node.drop), node.chunks)


@dataclass(eq=False)
class Present:
    """A future that is done."""

    value: Any
    number: int = 0
    key: str = field(default_factory=lambda: unique_token("future"))
    cluster: Any = None

    def result(self) -> Any:
        return self.value


def _held_array(node: ops.HeldArray) -> Whole:
    blocks = dict(zip(np.ndindex(node.grid), [handle.result() for handle in node.handles], strict=True))
    return _joined(blocks, node.grid)


def _along(array: np.ndarray, labels: Sequence[int], ndim: int) -> np.ndarray:
    """The array with ``ndim`` axes, those that it lacks of length one."""
    array = array[tuple(slice(None) if label < ndim else 0 for label in labels)]
    kept = [label for label in labels if label < ndim]
    array = np.asarray(array).transpose(sorted(range(len(kept)), key=kept.__getitem__))
    return array[tuple(slice(None) if k in kept else None for k in range(ndim))]


def _blockwise(node: ops.Blockwise, *inputs: Whole) -> Whole:
    if isinstance(node.op, ops.Elementwise):
        sizes = []
        for k, said in enumerate(node.chunks):
            sizes.append(said if said.known else _real_sizes(node, inputs, k))
        args = [_along(i.array, labels, node.ndim) for i, labels in zip(inputs, node.axes, strict=True)]
        filled = [args[a.index] if isinstance(a, Slot) else a for a in node.op.args]
        out = filled[0] if node.op.fn is None else np.asarray(node.op.fn(*filled))
        return Whole(np.broadcast_to(out, tuple(map(sum, sizes))), sizes)
    made = {}
    for index in product(*(range(len(c)) for c in node.chunks)):
        blocks = [_blocks_for(node, i, labels, index) for i, labels in zip(inputs, node.axes, strict=True)]
        args = [blocks[a.index] if isinstance(a, Slot) else a for a in node.op.args]
        place = {"block_place": BlockPlace(index, node.grid, node.chunks)} if node.op.place else {}
        made[index] = node.op.fn(*args, **node.op.kwargs, **place)
    return _joined(made, node.grid)


def _real_sizes(node: ops.Blockwise, inputs: Sequence[Whole], k: int) -> tuple[int, ...]:
    """Sizes along an axis that the node does not know: those of the inputs that do not know them either."""
    for i, real, labels in zip(node.inputs, inputs, node.axes, strict=True):
        if k in labels and not i.chunks[labels.index(k)].known:
            return real.sizes[labels.index(k)]
    raise AssertionError(f"{node!r} does not know axis {k}, but its inputs do")


def _blocks_for(node: ops.Blockwise, i: Whole, labels: Sequence[int], index: tuple[int, ...]) -> np.ndarray:
    region = []
    for label, sizes in zip(labels, i.sizes, strict=True):
        k = index[label] if label < node.ndim and len(sizes) > 1 else 0
        region.append(slice(None) if label >= node.ndim else slice(sum(sizes[:k]), sum(sizes[: k + 1])))
    return i.array[tuple(region)]


def _joined(blocks: dict[tuple[int, ...], np.ndarray], grid: tuple[int, ...]) -> Whole:
    origin = (0,) * len(grid)
    sizes = [
        [blocks[(*origin[:axis], k, *origin[axis + 1 :])].shape[axis] for k in range(n)] for axis, n in enumerate(grid)
    ]
    whole = Whole(np.empty([sum(s) for s in sizes], blocks[origin].dtype), sizes)
    for index, block in blocks.items():
        whole.array[whole.region(index)] = block
    return whole


def _reduce(node: ops.Reduce, x: Whole) -> Whole:
    place = {}
    if node.reduction.place:
        place = {"block_place": BlockPlace((0,) * x.array.ndim, (1,) * x.array.ndim, _one_block(x.array.shape))}
    out = np.asarray(node.reduction.finalize(node.reduction.partial(x.array, axis=node.axes, **place)))
    sizes = [[out.shape[a]] if a in node.axes else s for a, s in enumerate(x.sizes)]
    if not node.keepdims:
        out = out.reshape([n for a, n in enumerate(out.shape) if a not in node.axes])
        sizes = [s for a, s in enumerate(sizes) if a not in node.axes]
    return Whole(out.astype(node.dtype), sizes)


def _one_block(shape: Sequence[int]) -> Chunks:
    return tuple(AxisChunks((n,)) for n in shape)


def _slice(node: ops.Slice, x: Whole) -> Whole:
    index = tuple(
        slice(e.start, None if e.step and e.step < 0 and e.stop < 0 else e.stop, e.step) if isinstance(e, slice) else e
        for e in node.index
    )
    kept = [s for s, e in zip(x.sizes, node.index, strict=True) if isinstance(e, slice)]
    return Whole(x.array[index], [c if c.known else s for c, s in zip(node.chunks, kept, strict=True)])


def _points(node: ops.Points, x: Whole) -> Whole:
    return Whole(np.moveaxis(x.array, node.axes, range(len(node.axes)))[node.positions], node.chunks)


def _with_sizes(node: ArrayNode, array: np.ndarray, *inputs: Whole) -> Whole:
    return Whole(array, [c if c.known else s for c, s in zip(node.chunks, inputs[0].sizes, strict=True)])


def _concatenate(node: ops.Concatenate, *inputs: Whole) -> Whole:
    sizes = list(inputs[0].sizes)
    sizes[node.axis] = tuple(size for i in inputs for size in i.sizes[node.axis])
    return Whole(np.concatenate([i.array for i in inputs], node.axis), sizes)


def _overlap(node: ops.Overlap, x: Whole) -> Whole:
    made = {}
    for index in product(*(range(len(s)) for s in x.sizes)):
        region = tuple(
            slice(max(0, s.start - before), s.stop + after)
            for s, (before, after) in zip(x.region(index), node.depth, strict=True)
        )
        made[index] = x.array[region]
    return _joined(made, node.grid)


def _reshape(node: ops.Reshape, x: Whole) -> Whole:
    return Whole(x.array.reshape(node.shape), node.chunks)


def _call(node: ops.Call, *inputs: Any) -> Any:
    def fill(template: Any) -> Any:
        if isinstance(template, Slot):
            return inputs[template.index]
        return [fill(item) for item in template] if isinstance(template, list) else template

    return node.fn(*map(fill, node.args))


def _store(node: ops.Store, x: Whole) -> Any:
    return x.array


EVALUATE: dict[type[Node], Callable[..., Any]] = {
    ops.Source: _source,
    ops.Blockwise: _blockwise,
    ops.Reduce: _reduce,
    ops.Scan: lambda node, x: _with_sizes(node, node.local(x.array, axis=node.axis), x),
    ops.Slice: _slice,
    ops.Take: lambda node, x: _with_sizes(node, np.take(x.array, node.indices, node.axis), x),
    ops.Points: _points,
    ops.Rechunk: lambda node, x: _with_sizes(node, x.array, x),
    ops.Concatenate: _concatenate,
    ops.Overlap: _overlap,
    ops.Reshape: _reshape,
    ops.HeldArray: _held_array,
    ops.HeldValue: lambda node: node.handle.result(),
    ops.FromValue: lambda node, value: Whole(np.asarray(value), [[n] for n in np.shape(value)]),
    ops.Call: _call,
    ops.Whole: lambda node, x: x.array,
    ops.Store: _store,
}

# ---------------------------------------------------------------- functions for programs


class Sums:
    """Accumulator of a sum."""

    def __init__(self, shape: tuple[int, ...], axis: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.axis = axis
        self.total = np.zeros([1 if a in axis else n for a, n in enumerate(shape)], np.int64)

    def update(self, tile: np.ndarray, where: tuple[slice, ...], owned: bool, shared: dict[Any, Any]) -> None:
        self.total[where] += tile.sum(axis=self.axis, keepdims=True)

    def result(self) -> np.ndarray:
        return self.total


def _sum(block: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return np.sum(block, axis=axis, keepdims=True)


def _largest(block: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return np.max(block, axis=axis, keepdims=True, initial=-1000)


def _moments(block: np.ndarray, axis: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return _sum(np.ones_like(block), axis), _sum(block, axis)


def _join_moments(partial: tuple[np.ndarray, np.ndarray], axis: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    return _sum(partial[0], axis), _sum(partial[1], axis)


def _mean(partial: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return partial[1] // np.maximum(partial[0], 1)


def _first_place(block: np.ndarray, axis: tuple[int, ...], block_place: BlockPlace) -> np.ndarray:
    """The least flat-ish place number that holds an even value: needs to know where the block lies."""
    places = np.zeros(block.shape, np.int64)
    for a in axis:
        shape = [-1 if k == a else 1 for k in range(block.ndim)]
        places = places * 1000 + (np.arange(block.shape[a]) + block_place.offset(a)).reshape(shape)
    return np.min(np.where(block % 2 == 0, places, 10**15), axis=axis, keepdims=True, initial=10**15)


def _least(partial: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return np.min(partial, axis=axis, keepdims=True)


def _same(partial: Any) -> Any:
    return partial


REDUCTIONS = (
    Reduction("sum", _sum, _sum, _same, Sums),
    Reduction("max", _largest, _largest, _same),
    Reduction("mean", _moments, _join_moments, _mean, partial_itemsize=16),
    Reduction("first", _first_place, _least, _same, place=True),
)


def cumulate(block: np.ndarray, axis: int) -> np.ndarray:
    return np.cumsum(block, axis=axis)


def total(block: np.ndarray, axis: int) -> np.ndarray:
    return np.sum(block, axis=axis, keepdims=True)


def centred(block: np.ndarray) -> np.ndarray:
    return block - block.max(initial=0)  # differs when blocks differ


def placed(block: np.ndarray, block_place: BlockPlace) -> np.ndarray:
    return block + sum(block_place.index)


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b


def evens(block: np.ndarray) -> np.ndarray:
    return block[block % 2 == 0]


def double(array: np.ndarray) -> np.ndarray:
    return array * 2


def checksum(*values: Any) -> int:
    return sum(int(np.sum(value)) for value in values)


# ---------------------------------------------------------------- programs


def chunks_for(draw: st.DrawFn, shape: Sequence[int]) -> Chunks:
    out = []
    for n in shape:
        if draw(st.booleans()):
            out.append(normalize_chunks(draw(st.integers(1, max(1, n))), (n,))[0])
        else:
            cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=3))) if n > 1 else []
            out.append(AxisChunks(b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True)))
    return tuple(out)


def leaf(draw: st.DrawFn) -> ArrayNode:
    shape = tuple(draw(st.lists(st.integers(0, 7) if draw(st.integers(0, 9)) == 0 else st.integers(1, 7), max_size=3)))
    array = np.random.default_rng(draw(st.integers(0, 9))).integers(-50, 50, shape)
    source = ArraySource(array)
    source.free = draw(st.booleans())
    if draw(st.booleans()):
        source.storage_chunks = tuple(draw(st.integers(1, 4)) for _ in shape)
    chunks = chunks_for(draw, shape)
    if draw(st.integers(0, 3)) == 0:
        regions = product(*[[slice(a, b) for a, b in pairwise(axis.bounds.tolist())] for axis in chunks])
        return build.held_array([Present(array[region]) for region in regions], chunks, array.dtype)
    return build.source(source, chunks)


def op_unary(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    fn = draw(st.sampled_from([np.add, np.multiply, np.subtract]))
    scalar = draw(st.integers(-3, 3))
    return build.elementwise(fn, [x, scalar] if draw(st.booleans()) else [scalar, x])


def op_binary(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    y = draw(st.sampled_from([n for n in pool if isinstance(n, ArrayNode)]))
    return build.elementwise(draw(st.sampled_from([np.add, np.multiply, np.subtract, np.maximum])), [x, y])


def op_centre(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    """x minus one of its own reductions: what makes one input needed twice, at different times."""
    axis = draw(st.integers(0, max(0, x.ndim - 1)))
    mean = build.reduce(x, REDUCTIONS[draw(st.integers(0, 2))], axis if x.ndim else (), "i8", keepdims=True)
    return build.elementwise(np.subtract, [x, mean])


def op_rearrange(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    kept = [a for a in range(x.ndim) if x.shape[a] != 1 or draw(st.booleans())]
    axes: list[int | None] = list(draw(st.permutations(kept)))
    new = {}
    if draw(st.booleans()) and len(axes) < 4:
        axes.insert(draw(st.integers(0, len(axes))), None)
    for k, axis in enumerate(axes):
        if (axis is None or x.shape[axis] == 1) and draw(st.booleans()):
            new[k] = chunks_for(draw, [draw(st.integers(1, 4))])[0]
    return build.rearrange(x, axes, new)


def op_slice(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    index: list[int | slice] = []
    for n in x.shape:
        if isnan(n) or draw(st.integers(0, 2)) == 0:
            index.append(slice(None))
        elif n and draw(st.integers(0, 3)) == 0:
            index.append(draw(st.integers(0, n - 1)))
        else:
            bound = st.none() | st.integers(-n, n)
            step = draw(st.sampled_from([1, 1, 1, 2, 3, -1, -2]))
            index.append(normalize_slice(slice(draw(bound), draw(bound), step), n))
    if slice(0, 0, 1) in index and any(map(isnan, x.shape)):
        raise UnknownChunksError  # nobody could tell the shape of a block of nothing
    return build.slice_(x, index)


def op_take(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    axis = draw(st.integers(0, x.ndim - 1))
    n = x.shape[axis]
    indices = draw(st.lists(st.integers(0, n - 1), max_size=8)) if n and not isnan(n) else []
    return build.take(x, np.array(sorted(indices) if draw(st.booleans()) else indices, np.int64), axis)


def op_points(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    axes = sorted(draw(st.sets(st.integers(0, x.ndim - 1), min_size=1)))
    count = draw(st.integers(0, 6)) if all(x.shape[a] for a in axes) else 0
    positions = [np.array([draw(st.integers(0, x.shape[a] - 1)) for _ in range(count)], np.int64) for a in axes]
    return build.points(x, axes, positions)


def op_rechunk(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    return build.rechunk(x, chunks_for(draw, x.shape))


def op_concatenate(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    axis = draw(st.integers(0, x.ndim - 1))
    y = draw(st.sampled_from([n for n in pool if isinstance(n, ArrayNode)]))
    return build.concatenate([x, y] if y.ndim == x.ndim and draw(st.booleans()) else [x, x], axis)


def op_overlap(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    return build.overlap(x, [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(x.ndim)])


def op_reduce(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    axes = draw(st.none() | st.sets(st.integers(0, x.ndim - 1)).map(tuple)) if x.ndim else None
    every = draw(st.none() | st.integers(2, 4))
    reduction = draw(st.sampled_from(REDUCTIONS if all(c.known for c in x.chunks) else REDUCTIONS[:3]))
    return build.reduce(x, reduction, axes, "i8", keepdims=draw(st.booleans()), split_every=every)


def op_scan(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    return build.scan(x, draw(st.integers(0, x.ndim - 1)), (cumulate, total, np.add), "i8", "cumsum")


def op_reshape(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    if any(map(isnan, x.shape)):
        raise UnknownChunksError
    factors = []
    for n in x.shape:
        small = next((p for p in (2, 3, 5, 7) if n and n % p == 0), 1)
        factors += [n // small, small]
    shape, joined = [], draw(st.lists(st.booleans(), min_size=len(factors), max_size=len(factors)))
    for factor, join in zip(factors, joined, strict=True):
        if join and shape:
            shape[-1] *= factor
        elif factor != 1 or draw(st.booleans()):
            shape.append(factor)
    return build.reshape(x, shape[:4] if prod(shape[:4]) == prod(x.shape) else [prod(x.shape)])


def op_function(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    labels = list(range(x.ndim))
    function = (
        BlockFunction(centred, (Slot(0),)) if draw(st.booleans()) else BlockFunction(placed, (Slot(0),), place=True)
    )
    return build.blockwise(function, labels, [(x, labels)], "i8", label=function.fn.__name__)


def op_matmul(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    if x.ndim != 2:
        raise PlanError
    fits = [n for n in pool if isinstance(n, ArrayNode) and n.ndim == 2 and n.shape[0] == x.shape[1]]
    y = draw(st.sampled_from(fits)) if fits else build.rearrange(x, (1, 0))
    return build.blockwise(
        BlockFunction(matmul, (Slot(0), Slot(1))), "ij", [(x, "ik"), (y, "kj")], "i8", label="matmul"
    )


def op_evens(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    if x.ndim != 1:
        raise PlanError
    return build.blockwise(BlockFunction(evens, (Slot(0),)), "i", [(x, "i")], "i8", adjust_chunks={"i": lambda n: nan})


def op_call(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    values = [v for v in pool if not isinstance(v, ArrayNode)] + [build.whole(x), build.held_value(Present(7))]
    chosen = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True))
    args: tuple[Any, ...] = tuple(map(Slot, range(len(chosen))))
    flat = draw(st.booleans())
    if not flat:
        args = tuple([a] for a in args)
    return ops.Call(
        checksum, args, {}, tuple(chosen), f"call-{draw(st.integers(0, 10**9))}-{len(pool)}", "checksum", flat
    )


def op_from_value(draw: st.DrawFn, x: ArrayNode, pool: list[Any]) -> Node:
    if any(map(isnan, x.shape)):
        raise UnknownChunksError
    if draw(st.booleans()):
        return build.from_value(build.held_value(Present(np.arange(3))), (3,), "i8")
    call = ops.Call(double, (Slot(0),), {}, (build.whole(x),), "double-" + x.token, "double", True)
    return build.from_value(call, x.shape, "i8")


OPERATIONS = [
    op_unary, op_binary, op_binary, op_centre, op_rearrange, op_slice, op_slice, op_take, op_points, op_rechunk,
    op_concatenate, op_overlap, op_reduce, op_reduce, op_scan, op_reshape, op_function, op_matmul, op_evens, op_call,
    op_from_value,
]  # fmt: skip


@st.composite
def programs(draw: st.DrawFn) -> list[Node]:
    """Outputs of a random program: arrays and calls."""
    pool: list[Any] = [leaf(draw) for _ in range(draw(st.integers(1, 2)))]
    for _ in range(draw(st.integers(2, 9))):
        arrays = [n for n in pool if isinstance(n, ArrayNode)]
        x = arrays[-1] if draw(st.booleans()) else draw(st.sampled_from(arrays))
        operation = draw(st.sampled_from(OPERATIONS))
        if operation in (op_take, op_points, op_concatenate, op_scan) and (
            x.ndim == 0 or (any(map(isnan, x.shape)) and operation in (op_points, op_scan))
        ):
            continue
        try:
            new = operation(draw, x, pool)
        except PlanError:
            continue
        if not isinstance(new, ArrayNode) or (new.ndim <= 5 and not prod(new.shape) > 5000):
            pool.append(new)
    some = draw(st.lists(st.sampled_from(pool), max_size=2))
    return list(dict.fromkeys([pool[-1], *some]))


# ---------------------------------------------------------------- running


class Planned:
    """A program on its way: outputs as stores and calls, optimized, lowered, as a task graph."""

    def __init__(
        self, outputs: Sequence[Node], again: bool = True, rules: bool = True, hold_bytes: float = inf
    ) -> None:
        self.sinks = {}
        stores: list[Node] = []
        for node in outputs:
            if isinstance(node, ArrayNode):
                known = all(axis.known for axis in node.chunks)
                self.sinks[node] = MemorySink(node.shape, node.dtype) if known else BlockSink(node.chunks, node.dtype)
                stores.append(build.store(node, self.sinks[node]))
            else:
                stores.append(node)
        self.outputs = list(outputs)
        verify(stores, "program")
        self.plan = optimize(stores, after=lambda name, now: verify(now, "program")) if rules else tuple(stores)
        if rules:
            verify(self.plan, "optimized")
        self.plan = in_passes(self.plan, hold_bytes)
        repeated = repeatable(topological(self.plan)) if again else ()
        self.lowered: Lowered = lower(self.plan, repeated, hold_bytes)
        verify_stages(self.lowered.stages)
        wanted = [place for places in self.lowered.outputs for place in places]
        self.graph = taskgraph.build(self.lowered.stages, wanted, self.lowered.stores, self.lowered.resident_bytes)

    def run(self, workers: int = 1) -> list[Any]:
        engine = SyncEngine() if workers == 1 else ThreadsEngine()
        values = iter(engine.run(self.graph, RunOptions(workers, MEMORY)))
        return [self.sinks[node].array if node in self.sinks else next(values) for node in self.outputs]


def assert_equal(outputs: Sequence[Node], results: Sequence[Any]) -> None:
    expected = reference(outputs)
    for node, result in zip(outputs, results, strict=True):
        want = expected[node].array if isinstance(node, ArrayNode) else expected[node]
        if isinstance(node, ArrayNode):
            assert result.dtype == want.dtype
            assert result.shape == want.shape
        assert np.array_equal(result, want)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessesEngine]:
    here = sys.modules[__name__]  # which workers cannot import
    cloudpickle.register_pickle_by_value(here)
    engine = ProcessesEngine(2, MEMORY)
    yield engine
    engine.close()
    cloudpickle.unregister_pickle_by_value(here)


slow = settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@slow
@given(programs(), st.booleans(), st.booleans(), st.sampled_from([inf, 0, 500]))
def test_a_program_gives_what_numpy_gives(outputs: list[Node], again: bool, rules: bool, hold_bytes: float) -> None:
    assert_equal(outputs, Planned(outputs, again, rules, hold_bytes).run())


@settings(slow, max_examples=100)
@given(programs())
def test_processes_give_what_numpy_gives(processes: ProcessesEngine, outputs: list[Node]) -> None:
    assume(not any(isinstance(node, ops.HeldArray | ops.HeldValue) for node in topological(outputs)))  # no real ones
    things = [Array(node) if isinstance(node, ArrayNode) else Delayed(node) for node in outputs]
    assert_equal(outputs, session.compute(*things, scheduler=processes))


@settings(slow, max_examples=100)
@given(programs())
def test_threads_give_what_numpy_gives(outputs: list[Node]) -> None:
    assert_equal(outputs, Planned(outputs, hold_bytes=100).run(workers=3))
