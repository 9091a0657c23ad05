"""Tile segments: a chain of elementwise steps, and the reductions at its end, run over tiles that stay in the cache.

Policy
------
The inputs are brought into the segment's axis order, then all axes into the memory order of the largest input, so that
transposed and F-ordered blocks are walked in the order in which they lie in memory, and results keep it, like NumPy's.
What follows from the shapes alone is a :class:`_Plan`, made once and used for every block of the same shapes:

- A step whose value is the same in every tile (its inputs are broadcast along all axes that are cut) runs once.
- Every other value lives in a scratch slot of its thread, from the step that makes it to the last step that reads it;
  a ufunc writes over an operand that it is the last to read, if that has the same dtype and shape.
- A value that is wanted as a whole has no slot: its step writes into the block, or into the sink's memory.
- A generated leaf (``Source.stream``) is made tile by tile in a slot, and never exists as a block.
- Values that are reduced are handed to their accumulators, which may overwrite them if nobody else reads them.

Axes in the names below are *memory* axes unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, TypeAlias

import numpy as np

from tilework.base.errors import InternalError
from tilework.engine.kernels.context import Context
from tilework.engine.kernels.tiling import memory_order, regions, tile_lengths
from tilework.plan.ops import Slot
from tilework.plan.reductions import Accumulator, Partial
from tilework.plan.stages import BlockPlace, TileResult, TileSegment

Index: TypeAlias = tuple[Any, ...]

_PLANS = 64  # plans that a thread keeps; more segments than that are not run in turn


@dataclass(slots=True)
class Streamed:
    """An input that is generated: ``fill`` makes its next tile. Its axes are the segment's, in the same order."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: Callable[[np.ndarray], None]


Input: TypeAlias = np.ndarray | Streamed


def run_tiles(
    segment: TileSegment,
    index: tuple[int, ...],
    inputs: Sequence[Input],
    targets: dict[int, np.ndarray],
    context: Context,
) -> list[Any]:
    """The results of a segment for the block at grid ``index``.

    Parameters
    ----------
    inputs
        The values that ``segment.inputs`` name, in order.
    targets
        By number of result: memory of the result's shape and dtype to compute it in.
    """
    views = [
        value if isinstance(value, Streamed) else _along(value, axes, segment.axes)
        for value, (_, axes) in zip(inputs, segment.inputs, strict=True)
    ]
    shape = space(segment, index, views)
    if 0 in shape:
        return [_empty_result(segment, result, shape, views, index) for result in segment.results]
    order = _order(views, len(shape))
    key = (id(segment), shape, order, tuple(targets), *((v.shape, v.dtype, type(v)) for v in views))
    found = context.plans.get(key)
    if found is None:
        if len(context.plans) >= _PLANS:
            context.plans.clear()
        # The segment is kept with the plan, so that its id stays its own.
        found = context.plans[key] = (segment, _Plan(segment, shape, order, views, frozenset(targets), context))
    return _Run(found[1], views, targets, context).results(index)


def space(segment: TileSegment, index: tuple[int, ...], views: Sequence[Input]) -> tuple[int, ...]:
    """Shape of the segment's index space at grid ``index``, in the segment's axis order."""
    shape = []
    for j, (axis, chunks) in enumerate(zip(segment.axes, segment.chunks, strict=True)):
        if chunks.known:
            shape.append(chunks[index[axis] if len(chunks) > 1 else 0])
        else:
            sizes = {view.shape[j] for view in views}
            shape.append(max(sizes - {1}, default=1) if 0 not in sizes else 0)
    return tuple(shape)


def _along(value: np.ndarray, axes: tuple[int, ...], segment_axes: tuple[int, ...]) -> np.ndarray:
    """A view of a value with the segment's axes; those that it lacks have length one."""
    if axes == segment_axes:
        return value
    view = value[(*(0 if axis < 0 else slice(None) for axis in axes), ...)]
    present = [axis for axis in axes if axis >= 0]
    view = view.transpose(sorted(range(len(present)), key=present.__getitem__))
    return view[(*(slice(None) if axis in present else None for axis in segment_axes), ...)]


def _order(views: Sequence[Input], ndim: int) -> tuple[int, ...]:
    """Memory order of the largest input; the order of the axes if tiles must come in it."""
    arrays = [view for view in views if not isinstance(view, Streamed)]
    if len(arrays) < len(views) or not arrays:
        return tuple(range(ndim))
    return memory_order(max(arrays, key=lambda array: array.size))


def _empty_result(
    segment: TileSegment, result: TileResult, shape: tuple[int, ...], views: Sequence[Input], index: tuple[int, ...]
) -> Any:
    """A result where a size is zero, so that no step has anything to do."""
    n = len(views)
    dtype = views[result.value].dtype if result.value < n else segment.steps[result.value - n].dtype
    block = np.empty([shape[segment.axes.index(axis)] for axis in result.axes], dtype)
    return _finished(segment, result, block, index)


def _finished(segment: TileSegment, result: TileResult, block: np.ndarray, index: tuple[int, ...]) -> Any:
    """A result from its whole block."""
    reduction = result.reduction
    if reduction is None:
        return block
    if not reduction.place:
        return reduction.partial(block, axis=result.reduce_axes)
    chunks = tuple(segment.chunks[segment.axes.index(axis)] for axis in result.axes)
    mine = tuple(index[axis] if len(c) > 1 else 0 for axis, c in zip(result.axes, chunks, strict=True))
    place = BlockPlace(mine, tuple(map(len, chunks)), chunks)
    return reduction.partial(block, axis=result.reduce_axes, block_place=place)


# ---------------------------------------------------------------- the plan for blocks of one shape


@dataclass(slots=True)
class _Step:
    """A step, ready to run: ``env[value] = fn(*env[args], out=...)``."""

    fn: Callable[..., Any]
    args: tuple[int, ...]
    value: int
    dtype: np.dtype[Any]
    label: str
    views: list[np.ndarray] | None = None  # scratch, by shape of tile
    output: int = -1  # else: number of the output array, and the tiles' places in it
    places: list[Index] | None = None
    shapes: list[tuple[int, ...]] | None = None  # else (objects): fresh arrays


@dataclass(slots=True)
class _Reduced:
    """A result that an accumulator takes."""

    number: int
    value: int
    axis: tuple[int, ...]
    kept: list[tuple[slice, ...]]  # by tile: its region of the result
    stretch: list[tuple[int, ...]] | None  # by shape of tile: what the value must be broadcast to
    owned: bool


class _Plan:
    """How a segment runs over blocks of one shape.

    Values are numbered as in the segment: inputs, then steps; the steps' constants follow, as ``constants``.
    """

    def __init__(
        self,
        segment: TileSegment,
        shape: tuple[int, ...],
        order: tuple[int, ...],
        views: Sequence[Input],
        targets: frozenset[int],
        context: Context,
    ) -> None:
        self.segment = segment
        self.order = order
        self.shape = tuple(shape[axis] for axis in order)
        self.n = len(views)
        self.tile_bytes = context.tile_bytes
        self.dtypes = [view.dtype for view in views] + [step.dtype for step in segment.steps]
        self.constants: list[Any] = []
        self.args = [self._arguments(step.args) for step in segment.steps]
        # Whether a value differs along each axis, or is broadcast.
        self.varies = [tuple(view.shape[axis] > 1 for axis in order) for view in views]
        for args in self.args:
            mine = [self.varies[a] for a in args if a < len(self.varies)]
            self.varies.append(tuple(map(any, zip(*mine, strict=True))) if mine else (False,) * len(shape))
        self._cut({i for i, view in enumerate(views) if isinstance(view, Streamed)})
        self._choose_outputs(targets)
        self._choose_slots(context)
        self.reduced = [self._reduced(k) for k, r in enumerate(segment.results) if self.accumulates(r)]
        self._share_out()

    def _arguments(self, args: tuple[Any, ...]) -> tuple[int, ...]:
        """Places of a step's arguments among the values, and the constants after them."""
        places = []
        for arg in args:
            if isinstance(arg, Slot):
                places.append(arg.index)
            else:
                places.append(len(self.dtypes) + len(self.constants))
                self.constants.append(arg)
        return tuple(places)

    # ------------------------------------------------------------ tiles

    def permutation(self, result: TileResult) -> list[int]:
        """The memory axis of each axis of a result."""
        return [self.order.index(self.segment.axes.index(axis)) for axis in result.axes]

    def reduce_axes(self, result: TileResult) -> tuple[int, ...]:
        """Memory axes that a result is reduced along."""
        axes = self.permutation(result)
        return tuple(sorted(axes[j] for j in result.reduce_axes))

    @staticmethod
    def accumulates(result: TileResult) -> bool:
        """Whether the result is reduced tile by tile."""
        return result.reduction is not None and result.reduction.accumulator is not None

    def _cut(self, streamed: set[int]) -> None:
        itemsize = max(4, *(dtype.itemsize for dtype in self.dtypes))
        reduced = [frozenset(self.reduce_axes(r)) for r in self.segment.results if r.reduction is not None]
        by_rows = frozenset() if streamed or not reduced else frozenset.intersection(*reduced)
        lengths = tile_lengths(self.shape, max(1, self.tile_bytes // itemsize), by_rows)
        self.tiles = regions(self.shape, lengths, by_rows)
        shapes = [tuple(s.stop - s.start for s in tile) for tile in self.tiles]
        self.shapes = list(dict.fromkeys(shapes))
        self.shape_of = [self.shapes.index(shape) for shape in shapes]
        self.cut_axes = [axis for axis, (n, length) in enumerate(zip(self.shape, lengths, strict=True)) if length < n]
        self.streamed = streamed
        self._places: dict[tuple[bool, ...], list[Index]] = {}

    def places(self, value: int) -> list[Index]:
        """By tile: where it lies in an array of the value's shape."""
        varies = self.varies[value]
        pattern = tuple(varies[axis] for axis in self.cut_axes)
        if pattern not in self._places:
            cut = [axis for axis in self.cut_axes if varies[axis]]
            last = cut[-1] + 1 if cut else 0
            self._places[pattern] = [
                (*(tile[axis] if axis in cut else slice(None) for axis in range(last)), ...) for tile in self.tiles
            ]
        return self._places[pattern]

    def sliced(self, value: int) -> bool:
        """Whether the value differs from tile to tile."""
        return len(self.tiles) == 1 or any(self.varies[value][axis] for axis in self.cut_axes)

    def natural(self, value: int, shape: Sequence[int]) -> tuple[int, ...]:
        """``shape`` with length one along the axes that the value is broadcast along."""
        return tuple(n if varies else 1 for n, varies in zip(shape, self.varies[value], strict=True))

    # ------------------------------------------------------------ where values live

    def _choose_outputs(self, targets: frozenset[int]) -> None:
        """Steps whose value is wanted as a whole write into it; ``outputs`` maps them to a target, or -1 for none."""
        self.outputs: dict[int, int] = {}
        for number, result in enumerate(self.segment.results):
            if result.value >= self.n and not self.accumulates(result):
                spans = self.natural(result.value, self.shape) == self.shape
                target = number if number in targets and spans else -1
                self.outputs[result.value] = max(target, self.outputs.get(result.value, -1))

    def _choose_slots(self, context: Context) -> None:
        """Lay out the steps that run once, then those that run for every tile, each with its place for the value."""
        steps = [
            _Step(step.fn, args, self.n + k, step.dtype, step.label)
            for k, (step, args) in enumerate(zip(self.segment.steps, self.args, strict=True))
        ]
        self.once = [step for step in steps if not self.sliced(step.value)]
        self.each = [step for step in steps if self.sliced(step.value)]
        last = {step.value: step.value for step in steps} | dict.fromkeys(self.streamed, self.n)
        for step in steps:
            last |= {arg: step.value for arg in step.args if arg < len(self.dtypes)}
        wanted: dict[int, float] = {result.value: inf for result in self.segment.results}
        used_in_loop: dict[int, float] = {arg: inf for step in self.each for arg in step.args}
        slots = _Slots(0)
        self._assign(self.once, slots, last | used_in_loop | wanted, context)
        slots = _Slots(slots.count)  # what was made once stays
        self.fills = [(value, self._views(value, slots.take(value), context)) for value in sorted(self.streamed)]
        self._assign(self.each, slots, last | wanted, context)

    def _assign(self, steps: list[_Step], slots: _Slots, last: dict[int, float], context: Context) -> None:
        for step in steps:
            dying = [arg for arg in dict.fromkeys(step.args) if arg in slots.of and last[arg] == step.value]
            if step.value in self.outputs:
                step.output, step.places = step.value, self.places(step.value)
            elif step.dtype.hasobject:
                step.shapes = [self.natural(step.value, shape) for shape in self.shapes]
            else:
                # Other functions than ufuncs may write before they have read.
                alike = [arg for arg in dying if self._alike(arg, step.value)] if isinstance(step.fn, np.ufunc) else []
                slot = slots.hand_over(alike[0], step.value) if alike else slots.take(step.value)
                step.views = self._views(step.value, slot, context)
            for arg in dying:
                slots.release(arg)
            if last[step.value] == step.value:
                slots.release(step.value)

    def _alike(self, a: int, b: int) -> bool:
        return self.dtypes[a] == self.dtypes[b] and self.varies[a] == self.varies[b]

    def _views(self, value: int, slot: int, context: Context) -> list[np.ndarray]:
        """The slot's memory as arrays of the value's dtype and of each shape of tile."""
        memory, dtype, views = context.scratch(slot), self.dtypes[value], []
        for shape in self.shapes:
            mine = self.natural(value, shape)
            fits = int(np.prod(mine)) * dtype.itemsize <= memory.nbytes  # a single element may be larger than a tile
            views.append(np.ndarray(mine, dtype, memory) if fits else np.empty(mine, dtype))
        return views

    # ------------------------------------------------------------ reductions

    def _reduced(self, number: int) -> _Reduced:
        result = self.segment.results[number]
        axis = self.reduce_axes(result)
        one = slice(0, 1)
        kept = [tuple(one if a in axis else s for a, s in enumerate(tile)) for tile in self.tiles]
        stretch = None if self.natural(result.value, self.shape) == self.shape else self.shapes
        return _Reduced(number, result.value, axis, kept, stretch, owned=False)

    def _share_out(self) -> None:
        """Let the last accumulator that takes a scratch value overwrite it."""
        scratch = {step.value for step in self.each if step.views is not None} | self.streamed
        last = {reduced.value: reduced for reduced in self.reduced}
        for value, reduced in last.items():
            reduced.owned = value in scratch and reduced.stretch is None


class _Slots:
    """Which scratch slot holds which value."""

    def __init__(self, count: int) -> None:
        self.count = count  # slots in use or free, of this and earlier steps
        self.of: dict[int, int] = {}
        self._free: list[int] = []

    def take(self, value: int) -> int:
        if self._free:
            self.of[value] = self._free.pop()
        else:
            self.of[value] = self.count
            self.count += 1
        return self.of[value]

    def hand_over(self, old: int, new: int) -> int:
        self.of[new] = self.of.pop(old)
        return self.of[new]

    def release(self, value: int) -> None:
        slot = self.of.pop(value, None)
        if slot is not None:
            self._free.append(slot)


# ---------------------------------------------------------------- one block


class _Run:
    """One run of a plan."""

    def __init__(self, plan: _Plan, views: Sequence[Input], targets: dict[int, np.ndarray], context: Context) -> None:
        self.plan = plan
        self.context = context
        self.targets = targets
        self.arrays = [None if isinstance(view, Streamed) else view.transpose(plan.order) for view in views]
        self.fills = [view.fill for view in views if isinstance(view, Streamed)]
        self.env: list[Any] = [*self.arrays, *([None] * len(plan.each + plan.once)), *plan.constants]
        self.outputs = {value: self._output(value, target) for value, target in plan.outputs.items()}
        self.accumulators = [self._accumulator(reduced) for reduced in plan.reduced]

    def _output(self, value: int, target: int) -> np.ndarray:
        plan = self.plan
        if target >= 0:
            return self.targets[target].transpose(np.argsort(plan.permutation(plan.segment.results[target])))
        return self.context.pool.empty(plan.natural(value, plan.shape), plan.dtypes[value])

    def _accumulator(self, reduced: _Reduced) -> Accumulator:
        reduction = self.plan.segment.results[reduced.number].reduction
        if reduction is None or reduction.accumulator is None:
            raise InternalError("a result without an accumulator is reduced by tiles")
        return reduction.accumulator(self.plan.shape, reduced.axis, self.plan.dtypes[reduced.value])

    def results(self, index: tuple[int, ...]) -> list[Any]:
        """Run, and return the results."""
        self._loop()
        plan, results = self.plan, []
        accumulated = iter(self.accumulators)
        for number, result in enumerate(plan.segment.results):
            permutation = plan.permutation(result)
            if plan.accumulates(result):
                partial = next(accumulated).result()
                results.append(_transposed(partial, permutation))
                continue
            if plan.outputs.get(result.value) == number:
                results.append(self.targets[number])
                continue
            whole = self.outputs[result.value] if result.value >= plan.n else self.arrays[result.value]
            if whole is None:
                raise InternalError("a generated value is wanted as a whole block")
            if whole.shape != plan.shape:
                whole = np.broadcast_to(whole, plan.shape)
            results.append(_finished(plan.segment, result, whole.transpose(permutation), index))
        return results

    def _loop(self) -> None:
        plan, env = self.plan, self.env
        step: _Step | None = None
        cancelled = self.context.cancelled
        sliced = [(i, a, plan.places(i)) for i, a in enumerate(self.arrays) if a is not None and plan.sliced(i)]
        fills = [(value, fill, views) for (value, views), fill in zip(plan.fills, self.fills, strict=True)]
        reduced = [
            (acc.update, r.value, r.kept, r.owned, r.stretch)
            for acc, r in zip(self.accumulators, plan.reduced, strict=True)
        ]
        shared: dict[int, dict[Any, Any]] = {}  # by value: what its accumulators know about the tile
        try:
            for step in plan.once:
                env[step.value] = step.fn(*[env[a] for a in step.args], out=self._out(step, 0, 0))
            for t, s in enumerate(plan.shape_of):
                if cancelled is not None:
                    self.context.check()
                for i, array, places in sliced:
                    env[i] = array[places[t]]
                for i, fill, views in fills:
                    fill(views[s])
                    env[i] = views[s]
                for step in plan.each:
                    out = step.views[s] if step.views is not None else self._out(step, t, s)
                    env[step.value] = step.fn(*[env[a] for a in step.args], out=out)
                step = None
                for update, i, kept, owned, stretch in reduced:
                    if i not in shared:
                        shared[i] = {}
                    update(
                        env[i] if stretch is None else np.broadcast_to(env[i], stretch[s]), kept[t], owned, shared[i]
                    )
                shared.clear()
        except Exception as error:
            if step is not None:
                error.add_note(f"raised by the elementwise operation {step.label!r}")
            raise

    def _out(self, step: _Step, t: int, s: int) -> np.ndarray:
        if step.views is not None:
            return step.views[s]
        if step.places is not None:
            return self.outputs[step.output][step.places[t]]
        assert step.shapes is not None
        return np.empty(step.shapes[s], step.dtype)


def _transposed(partial: Partial, axes: list[int]) -> Partial:
    if axes == list(range(len(axes))):
        return partial
    if isinstance(partial, tuple):
        return tuple(part.transpose(axes) for part in partial)
    return partial.transpose(axes)
