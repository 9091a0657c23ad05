"""Stages: what a plan is lowered to. One fused piece of work over a grid of blocks, described as data.

A stage says which blocks of which other stages each of its blocks needs (:class:`StageInput`), by arithmetic on whole
index arrays; what its blocks weigh (``out_bytes``) and what making one needs on top (``work_bytes``). The work itself
is a :class:`Program` (arrays), :class:`Calls` (delayed functions) or :class:`Held` (what is there before). Engines
interpret it; nothing here runs anything.

How a block of a Program is made::

    operands                       segments                              outputs
    ────────                       ────────                              ───────
    Leaf       read a source       TileSegment   elementwise steps over  a value kept as the block,
    Block      one block of an     tiles, maybe reduced at the end       or written to a sink
               earlier stage       BlockSegment  one function of whole
    Assembled  pieces of several   blocks
    Grouped    several blocks, for                                     or, piece by piece,
               one function                                            to scratch space
    Gathered   pieces from scratch

Values are numbered: first the operands, then what each segment yields, in order. A value's *axes* say which domain
axis (axis of the stage's grid) each of its own axes lies along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import BlockFunction, Call
from tilework.plan.protocols import Handle, Region, Sink, Source
from tilework.plan.reductions import Reduction

# ---------------------------------------------------------------- which blocks a block needs


@dataclass(frozen=True, slots=True)
class AxisMap:
    """Along one axis of a producer: blocks needed by grid index ``k`` are ``blocks[indptr[k]:indptr[k + 1]]``.

    ``axis`` is the consumer's grid axis that gives ``k``; None means that ``k`` is 0 for every task.
    """

    axis: int | None
    indptr: np.ndarray
    blocks: np.ndarray

    @classmethod
    def identity(cls, axis: int, n: int) -> AxisMap:
        """Block ``k`` needs block ``k``."""
        return cls(axis, np.arange(n + 1), np.arange(n))

    @classmethod
    def all(cls, n: int) -> AxisMap:
        """Every task needs all ``n`` blocks of this axis."""
        return cls(None, np.array([0, n]), np.arange(n))

    @classmethod
    def groups(cls, axis: int, n: int, size: int) -> AxisMap:
        """Block ``k`` needs blocks ``k * size`` to ``(k + 1) * size``, cut at ``n``."""
        return cls(axis, np.minimum(np.arange(0, n + size, size), n), np.arange(n))

    def count(self, index: tuple[int, ...]) -> int:
        """How many blocks of this axis the task at grid ``index`` needs."""
        k = 0 if self.axis is None else index[self.axis]
        return int(self.indptr[k + 1] - self.indptr[k])


@dataclass(frozen=True, slots=True)
class GridMap:
    """The blocks needed are the product of one AxisMap per axis of the producer's grid, in C order."""

    maps: tuple[AxisMap, ...]

    def counts(self, index: tuple[int, ...]) -> tuple[int, ...]:
        """How many blocks along each producer axis the task at grid ``index`` needs."""
        return tuple(m.count(index) for m in self.maps)


@dataclass(frozen=True, slots=True)
class LinearMap:
    """Task ``i`` needs block ``i``, counting both grids in C order."""


@dataclass(frozen=True, slots=True)
class ExplicitMap:
    """Task ``i`` needs producer blocks (flat numbers) ``blocks[indptr[i]:indptr[i + 1]]``."""

    indptr: np.ndarray
    blocks: np.ndarray


Dependence: TypeAlias = GridMap | LinearMap | ExplicitMap


@dataclass(frozen=True, slots=True)
class StageInput:
    """Blocks of stage number ``producer``. If that stage has several outputs, ``pick`` chooses one of them."""

    producer: int
    blocks: Dependence
    pick: int | None = None


# ---------------------------------------------------------------- operands


@dataclass(frozen=True, slots=True)
class Leaf:
    """A region of a source, read by the task itself.

    Source axis ``j`` has blocks ``chunks[j]`` (in the coordinates of ``region``) and follows grid axis ``axes[j]``
    (None: it has one block only). Axes in ``drop`` have length one and are squeezed from what was read.
    """

    source: Source
    region: Region
    chunks: tuple[AxisChunks, ...]
    axes: tuple[int | None, ...]
    drop: tuple[int, ...] = ()

    def region_of(self, block: Sequence[int]) -> Region:
        """What to read for one block, given its number along each source axis."""
        region = []
        for whole, chunks, k in zip(self.region, self.chunks, block, strict=True):
            lo, hi = int(chunks.bounds[k]), int(chunks.bounds[k + 1])
            region.append(slice(whole.start + lo * whole.step, whole.start + (hi - 1) * whole.step + 1, whole.step))
        return tuple(region)


@dataclass(frozen=True, slots=True)
class Block:
    """The one block that stage input number ``input`` yields."""

    input: int


@dataclass(frozen=True, slots=True)
class Grouped:
    """Several blocks of stage input ``input``: joined along all axes into one, or as nested lists (C order)."""

    input: int
    concatenate: bool


@dataclass(frozen=True, slots=True)
class AxisPieces:
    """How an assembled block is put together along one axis.

    Out block ``k`` (grid axis ``axis``; None: always 0) is made of pieces ``indptr[k]:indptr[k + 1]``. Piece ``p``
    is ``src[p]`` of producer block ``blocks[p]`` and lands at ``dst[p]``; both are slices or integer arrays.
    ``sizes[k]`` is the out block's length. The pieces' blocks equal those of the input's AxisMap, in order.
    """

    axis: int | None
    indptr: np.ndarray
    blocks: np.ndarray
    src: Pieces
    dst: Pieces
    sizes: np.ndarray


@dataclass(frozen=True, slots=True)
class SlicePieces:
    """Piece ``p`` is ``slice(start[p], stop[p], step)``; a stop of -1 with a negative step means "through 0"."""

    start: np.ndarray
    stop: np.ndarray
    step: int = 1

    def __getitem__(self, p: int) -> slice:
        stop = int(self.stop[p])
        return slice(int(self.start[p]), None if stop < 0 else stop, self.step)


@dataclass(frozen=True, slots=True)
class IndexPieces:
    """Piece ``p`` is the integer array ``index[indptr[p]:indptr[p + 1]]``."""

    indptr: np.ndarray
    index: np.ndarray

    def __getitem__(self, p: int) -> np.ndarray:
        return self.index[self.indptr[p] : self.indptr[p + 1]]


Pieces: TypeAlias = SlicePieces | IndexPieces


@dataclass(frozen=True, slots=True)
class Assembled:
    """One block assembled from pieces of the blocks of several stage inputs (one for all but concatenation).

    ``pieces[i]`` has one AxisPieces per axis of input ``inputs[i]``; inputs without pieces for a block give nothing.
    ``drop`` lists axes (of length one) to squeeze afterwards. A block that is one whole piece is passed on uncopied.
    """

    inputs: tuple[int, ...]
    pieces: tuple[tuple[AxisPieces, ...], ...]
    dtype: np.dtype[Any]
    drop: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AxisScatter:
    """How an array goes through scratch space along one axis: which pieces the blocks of each side have there.

    The axis falls into *parts*: runs of blocks on both sides that exchange pieces among each other only. A part is
    written as a whole before its first block is read. Made by :func:`tilework.plan.scatter.axis_scatter`.

    Attributes
    ----------
    pieces
        The pieces as those who read see them.
    indptr, order
        The pieces as those who write see them: block ``i`` has the pieces ``order[indptr[i]:indptr[i + 1]]``.
    target
        For each piece the block that it is for.
    place, length
        For each piece where it begins in its block's stretch of scratch space, and how long it is. Elements.
    source_part, target_part
        The part of each block on either side. Blocks without pieces are in part 0.
    base
        For each block that is read, where its stretch begins in its part.
    totals
        The length of each part.
    """

    pieces: AxisPieces
    indptr: np.ndarray
    order: np.ndarray
    target: np.ndarray
    place: np.ndarray
    length: np.ndarray
    source_part: np.ndarray
    target_part: np.ndarray
    base: np.ndarray
    totals: np.ndarray


@dataclass(frozen=True, slots=True)
class Scatter:
    """How an array goes through scratch space. There the pieces of a block lie one after another, in C order."""

    axes: tuple[AxisScatter, ...]
    dtype: np.dtype[Any]

    @property
    def parts(self) -> tuple[int, ...]:
        """Number of parts along each axis."""
        return tuple(len(axis.totals) for axis in self.axes)


GATHER_BYTES = 4 << 20
"""Pieces that a task reads from scratch space at a time, where it puts them in order itself."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """One block put together from its pieces in the scratch file that stage input ``input`` yields.

    ``axes`` are the grid axes that number the block along each of its own (None: there is one block).
    """

    input: int
    scatter: Scatter
    axes: tuple[int | None, ...]


Operand: TypeAlias = Leaf | Block | Grouped | Assembled | Gathered


# ---------------------------------------------------------------- segments


@dataclass(frozen=True, slots=True)
class TileStep:
    """``fn(*args, out=...)`` on tiles; Slots in ``args`` number the segment's own values (inputs, then steps)."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    dtype: np.dtype[Any]
    label: str


@dataclass(frozen=True, slots=True)
class TileResult:
    """The segment's own value ``value`` as a result, along domain axes ``axes`` (in the result's axis order).

    ``axes`` is a permutation of the segment's axes. Without ``reduction``: the whole block. With it: the partial over
    the result's axis numbers ``reduce_axes``.
    """

    value: int
    axes: tuple[int, ...]
    reduction: Reduction | None = None
    reduce_axes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TileSegment:
    """Elementwise steps that run tile by tile, all over one index space.

    ``axes`` are the domain axes of that space, ascending, and ``chunks`` its block sizes along each of them, so that a
    task knows the shape of the space from its index (sizes that are NaN come from the inputs). Every step has this
    shape. ``inputs[i] = (value, axes)`` are broadcast to it: along axes that they lack and along axes of length one.
    An input axis that is -1 has length one and is squeezed. A result may name an input directly.
    """

    inputs: tuple[tuple[int, tuple[int, ...]], ...]
    steps: tuple[TileStep, ...]
    results: tuple[TileResult, ...]
    axes: tuple[int, ...]
    chunks: tuple[AxisChunks, ...]


@dataclass(frozen=True, slots=True)
class BlockSegment:
    """One function of whole values. Slots in ``function.args`` number ``inputs``, which number the program's values.

    ``expected``: for each axis of the result its announced sizes and the grid axis that picks one (None: the first);
    None as a whole: not checked.
    """

    function: BlockFunction
    inputs: tuple[int, ...]
    dtype: np.dtype[Any] | None
    expected: tuple[tuple[AxisChunks, int | None], ...] | None
    label: str


Segment: TypeAlias = TileSegment | BlockSegment


@dataclass(frozen=True, slots=True)
class Output:
    """A value of the program as (part of) the block. With a ``sink`` it is written there and the block is None.

    ``chunks`` and ``axes`` (one per axis of the value: sizes and grid axis) locate the region; ``offset`` shifts it.
    With a ``scatter`` its pieces are written to the scratch file that stage input ``scratch`` yields, and the block is
    None.
    """

    value: int
    sink: Sink | None = None
    offset: tuple[int, ...] = ()
    chunks: tuple[AxisChunks, ...] = ()
    axes: tuple[int | None, ...] = ()
    scatter: Scatter | None = None
    scratch: int = -1


@dataclass(frozen=True, slots=True)
class Program:
    """How a block of an array stage is made. ``domain`` holds the sizes along the grid axes (NaN: unknown).

    The last ``inner`` axes of the domain are not axes of what is made: along them something inside contracts.
    """

    domain: tuple[AxisChunks, ...]
    operands: tuple[Operand, ...]
    segments: tuple[Segment, ...]
    outputs: tuple[Output, ...]
    inner: int = 0

    @property
    def chunks(self) -> tuple[AxisChunks, ...]:
        """Block sizes of the array that the stage's blocks are made from."""
        return self.domain[: len(self.domain) - self.inner]


@dataclass(frozen=True, slots=True)
class Calls:
    """Delayed calls: task ``i`` is ``calls[i]``; its inputs come in the order of ``Call.inputs``.

    Unlike other stages, a Calls stage may depend on itself; then its tasks are numbered in depth-first order,
    inputs before users. ``stages`` and ``blocks`` name the inputs: those of task ``i`` are ``indptr[i]:indptr[i+1]``.

    Pickled is only what running the calls takes, for workers: not the rest of the plan, which their inputs lead to.
    """

    calls: list[Call]
    indptr: np.ndarray
    stages: np.ndarray
    blocks: np.ndarray

    def __reduce__(self) -> tuple[Any, ...]:
        calls = [(call.fn, call.args, call.kwargs, len(call.inputs), call.label, call.flat) for call in self.calls]
        return _runnable, (calls,)


def _runnable(calls: list[tuple[Any, ...]]) -> Calls:
    """What a pickled Calls becomes. The inputs of its calls are as many, but nobody knows what they are."""
    unknown: Any = None
    made = [Call(fn, args, kwargs, (unknown,) * n, label, label, flat) for fn, args, kwargs, n, label, flat in calls]
    none = np.zeros(0, np.int64)
    return Calls(made, none, none, none)


@dataclass(frozen=True, slots=True)
class Held:
    """Blocks that are on a cluster already, or are being made there: task ``i`` is the value of ``handles[i]``.

    The cluster that has them never runs such a task. Other engines do: it fetches the value. Workers of that cluster
    need no handles, so they are left out of what is pickled.
    """

    handles: tuple[Handle, ...]

    def __reduce__(self) -> tuple[type[Held], tuple[tuple[()]]]:
        return Held, ((),)


Work: TypeAlias = Program | Calls | Held


@dataclass(frozen=True, slots=True)
class BlockPlace:
    """Where a block lies: what ``block_info``, ``block_id`` and arg-reductions are made from."""

    index: tuple[int, ...]
    grid: tuple[int, ...]
    domain: tuple[AxisChunks, ...]

    def offset(self, axis: int) -> int:
        """First element of the block along a domain axis with known sizes."""
        return int(self.domain[axis].bounds[self.index[axis]])


@dataclass(slots=True)
class Stage:
    """One fused operation over a grid of blocks.

    ``out_bytes`` and ``work_bytes`` are int64 arrays, one entry a task in C order of the grid, or of length one where
    all tasks weigh the same. ``read_bytes`` and ``write_bytes`` are totals over the stage: of what is read from
    storage, and written there. ``scratch_bytes`` is what each task opens on disk, for a while; empty if none does.
    ``operations`` are the labels of what was fused into it, inputs before users.
    """

    label: str
    grid: tuple[int, ...]
    inputs: tuple[StageInput, ...]
    work: Work
    out_bytes: np.ndarray
    work_bytes: np.ndarray
    read_bytes: int = 0
    write_bytes: int = 0
    scratch_bytes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    operations: tuple[str, ...] = field(default=())

    @property
    def size(self) -> int:
        """Number of tasks."""
        n = 1
        for k in self.grid:
            n *= k
        return n
