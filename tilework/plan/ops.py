"""The kinds of operation node, and nothing else.

A program is a DAG of these. Nodes are immutable by agreement, compare by identity and are *symbolic*: their number
depends on how many operations the user wrote, never on how many chunks there are. They hold facts only; checking
arguments and inferring shapes is the work of :mod:`tilework.plan.build`, which is the one place that makes nodes.

Kinds::

    ArrayNode
    ├── Source        a region of a :class:`~tilework.plan.protocols.Source`
    ├── Blockwise     the same function on every block: elementwise (tiled) or any function of whole blocks;
    │                 transposes, broadcasts, new and dropped axes are Blockwise with the identity
    ├── Reduce        a tree reduction over axes
    ├── Scan          a cumulative operation along one axis
    ├── Slice         basic indexing
    ├── Take          integer-array indexing along one axis
    ├── Points        pointwise (vectorized) indexing along several axes
    ├── Rechunk       the same array in other chunks
    ├── Concatenate   arrays joined along an axis
    ├── Overlap       every block with a halo of its neighbours
    ├── Merge         sorted blocks as one sorted array
    ├── Reshape       blocks reshaped one by one, in C order of the block grid
    ├── HeldArray     blocks that are on a cluster already, or will be
    └── FromValue     a one-block array whose block is the value of a Call
    Call              a delayed function call
    HeldValue         a value that is on a cluster already, or will be
    Whole             an array assembled into one ndarray, as an argument of a Call
    Store             an array written to a sink
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from tilework.plan.blocks import AxisChunks, Chunks
from tilework.plan.protocols import Handle, Region, Sink
from tilework.plan.protocols import Source as SourceProtocol
from tilework.plan.reductions import Reduction


class Node:
    """Anything in a plan.

    Attributes
    ----------
    inputs
        The nodes this one needs, in the order in which its fields refer to them.
    token
        Equal tokens promise equal results. Work is merged by it.
    label
        What users call the operation (``"add"``, ``"mean"``): for errors, progress, drawings.
    """

    __slots__ = ("__weakref__", "inputs", "label", "token")
    inputs: tuple[Node, ...]
    token: str
    label: str

    def replace_inputs(self, inputs: tuple[Node, ...]) -> Node:
        """The same operation on other inputs of the same shape, dtype and chunks (the token stays true)."""
        new = object.__new__(type(self))
        for cls in type(self).__mro__[:-1]:
            for name in cls.__dict__.get("__slots__", ()):
                if name != "__weakref__" and hasattr(self, name):
                    setattr(new, name, getattr(self, name))
        new.inputs = inputs
        return new

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label} {self.token[:12]}>"


class ArrayNode(Node):
    """A node whose value is a chunked array. ``chunks`` holds NaN where a size is unknown."""

    __slots__ = ("chunks", "dtype")
    inputs: tuple[Node, ...]
    dtype: np.dtype[Any]
    chunks: Chunks

    @property
    def shape(self) -> tuple[Any, ...]:
        """Sizes; NaN along an axis with unknown chunk sizes."""
        return tuple(axis.total for axis in self.chunks)

    @property
    def ndim(self) -> int:
        return len(self.chunks)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return tuple(len(axis) for axis in self.chunks)


class Source(ArrayNode):
    """``source[region]`` with integer axes dropped: ``drop`` lists the source axes (of length one) to squeeze."""

    __slots__ = ("drop", "region", "source")
    source: SourceProtocol
    region: Region
    drop: tuple[int, ...]

    def __init__(
        self, source: SourceProtocol, region: Region, drop: tuple[int, ...], chunks: Chunks, token: str, label: str
    ) -> None:
        self.inputs = ()
        self.source, self.region, self.drop = source, region, drop
        self.dtype, self.chunks, self.token, self.label = source.dtype, chunks, token, label


class Slot:
    """Placeholder for input ``i`` in an argument template."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __repr__(self) -> str:
        return f"Slot({self.index})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slot) and other.index == self.index

    def __hash__(self) -> int:
        return hash((Slot, self.index))

    def __tilework_token__(self) -> int:
        return self.index


class Elementwise:
    """An operation that can run tile by tile: element ``i`` of the result depends on elements ``i`` only.

    ``fn`` is a ufunc, or a function called as ``fn(*args, out=...)`` where ``out`` is no argument's memory (such as
    those of :mod:`tilework.plan.tilefuncs`); None is the identity (a pure change of axes). ``args`` are Slots and
    scalars.
    """

    __slots__ = ("args", "fn")

    def __init__(self, fn: Callable[..., Any] | None, args: tuple[Any, ...]) -> None:
        self.fn, self.args = fn, args


class BlockFunction:
    """Any function of whole blocks, called as ``fn(*args, **kwargs)`` with blocks in place of Slots.

    Slots may sit inside nested lists, tuples and dicts. An input with contracted axes arrives as one array,
    concatenated along them, if ``concatenate``; else as nested lists of blocks.
    If ``place`` is set, the call gets ``block_place=BlockPlace(...)`` (see :mod:`tilework.plan.stages`).
    """

    __slots__ = ("args", "check", "concatenate", "fn", "kwargs", "place", "scratch")

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
        *,
        concatenate: bool = True,
        place: bool = False,
        check: bool = True,
        scratch: float = 1.0,
    ) -> None:
        self.fn, self.args, self.kwargs = fn, args, kwargs or {}
        self.concatenate, self.place = concatenate, place
        self.check = check  # compare shape and dtype of what fn returns with what was announced
        # Extra memory while fn runs, as a multiple of (inputs + output). 0 promises a view of the only input.
        self.scratch = scratch


Op: TypeAlias = Elementwise | BlockFunction


class Blockwise(ArrayNode):
    """The same function on every block.

    ``axes[i][j]`` is the axis label of axis ``j`` of input ``i``. Labels ``0..ndim-1`` are the output's axes; labels
    from ``ndim`` on are contracted (all their blocks go into one call). An input axis of length one with one block
    broadcasts; an output axis that an input lacks is broadcast over too. A dropped axis of length one is a
    contracted label.
    """

    __slots__ = ("axes", "op")
    inputs: tuple[ArrayNode, ...]
    op: Op
    axes: tuple[tuple[int, ...], ...]

    def __init__(
        self,
        op: Op,
        inputs: tuple[ArrayNode, ...],
        axes: tuple[tuple[int, ...], ...],
        chunks: Chunks,
        dtype: np.dtype[Any],
        token: str,
        label: str,
    ) -> None:
        self.op, self.inputs, self.axes = op, inputs, axes
        self.chunks, self.dtype, self.token, self.label = chunks, dtype, token, label

    @property
    def elementwise(self) -> bool:
        return isinstance(self.op, Elementwise)


class Reduce(ArrayNode):
    """A tree reduction of one input over ``axes``; ``split_every[k]`` blocks of axis ``axes[k]`` join per level."""

    __slots__ = ("axes", "keepdims", "reduction", "split_every")
    inputs: tuple[ArrayNode, ...]
    reduction: Reduction
    axes: tuple[int, ...]
    keepdims: bool
    split_every: tuple[int, ...]

    def __init__(
        self,
        reduction: Reduction,
        input_: ArrayNode,
        axes: tuple[int, ...],
        keepdims: bool,
        split_every: tuple[int, ...],
        chunks: Chunks,
        dtype: np.dtype[Any],
        token: str,
    ) -> None:
        self.reduction, self.inputs, self.axes, self.keepdims = reduction, (input_,), axes, keepdims
        self.split_every = split_every
        self.chunks, self.dtype, self.token, self.label = chunks, dtype, token, reduction.name


ScanFunctions: TypeAlias = tuple[Callable[..., Any], Callable[..., Any] | None, Callable[..., Any]]


class Scan(ArrayNode):
    """A cumulative operation along ``axis``.

    Per block: ``local(block, axis)`` is the scan inside the block and ``total(block, axis)`` its total with
    ``keepdims`` (None: the last element of the scan). Totals are joined by ``join(a, b)`` from the left, and
    ``join(offset, local_scan)`` is the result.
    """

    __slots__ = ("axis", "join", "local", "total")
    inputs: tuple[ArrayNode, ...]
    local: Callable[..., np.ndarray]
    total: Callable[..., np.ndarray] | None
    join: Callable[..., np.ndarray]
    axis: int

    def __init__(
        self,
        input_: ArrayNode,
        axis: int,
        functions: ScanFunctions,
        chunks: Chunks,
        dtype: np.dtype[Any],
        token: str,
        label: str,
    ) -> None:
        self.inputs, self.axis = (input_,), axis
        self.local, self.total, self.join = functions
        self.chunks, self.dtype, self.token, self.label = chunks, dtype, token, label


class Slice(ArrayNode):
    """Basic indexing. ``index`` has one entry per input axis: an int (axis dropped) or a normalized slice.

    Slices are inside the bounds and not empty of step: ``slice(start, stop, step)`` with ``step != 0``; negative
    steps run from ``start`` down to but without ``stop`` (which may be -1 for "through 0").
    """

    __slots__ = ("index",)
    inputs: tuple[ArrayNode, ...]
    index: tuple[int | slice, ...]

    def __init__(
        self, input_: ArrayNode, index: tuple[int | slice, ...], chunks: Chunks, token: str, label: str = "getitem"
    ) -> None:
        self.inputs, self.index = (input_,), index
        self.chunks, self.dtype, self.token, self.label = chunks, input_.dtype, token, label


class Take(ArrayNode):
    """``np.take(x, indices, axis)`` with a 1-d array of non-negative positions."""

    __slots__ = ("axis", "indices")
    inputs: tuple[ArrayNode, ...]
    indices: np.ndarray
    axis: int

    def __init__(
        self, input_: ArrayNode, indices: np.ndarray, axis: int, chunks: Chunks, token: str, label: str = "take"
    ) -> None:
        self.inputs, self.indices, self.axis = (input_,), indices, axis
        self.chunks, self.dtype, self.token, self.label = chunks, input_.dtype, token, label


class Points(ArrayNode):
    """Pointwise indexing: ``positions[k]`` indexes axis ``axes[k]``; all are 1-d of one length.

    The points become axis 0 of the result (as Dask's ``vindex``), the axes not indexed follow in order.
    """

    __slots__ = ("axes", "positions")
    inputs: tuple[ArrayNode, ...]
    positions: tuple[np.ndarray, ...]
    axes: tuple[int, ...]

    def __init__(
        self,
        input_: ArrayNode,
        positions: tuple[np.ndarray, ...],
        axes: tuple[int, ...],
        chunks: Chunks,
        token: str,
        label: str = "vindex",
    ) -> None:
        self.inputs, self.positions, self.axes = (input_,), positions, axes
        self.chunks, self.dtype, self.token, self.label = chunks, input_.dtype, token, label


class Rechunk(ArrayNode):
    """The same array in other chunks."""

    __slots__ = ()
    inputs: tuple[ArrayNode, ...]

    def __init__(self, input_: ArrayNode, chunks: Chunks, token: str, label: str = "rechunk") -> None:
        self.inputs = (input_,)
        self.chunks, self.dtype, self.token, self.label = chunks, input_.dtype, token, label


class Concatenate(ArrayNode):
    """Arrays joined along ``axis``; all have the same dtype and the same chunks along the other axes."""

    __slots__ = ("axis",)
    inputs: tuple[ArrayNode, ...]
    axis: int

    def __init__(self, inputs: tuple[ArrayNode, ...], axis: int, chunks: Chunks, token: str) -> None:
        self.inputs, self.axis = inputs, axis
        self.chunks, self.dtype, self.token, self.label = chunks, inputs[0].dtype, token, "concatenate"


class Overlap(ArrayNode):
    """Every block with ``depth[axis] = (before, after)`` elements of its neighbours; none beyond the array's ends."""

    __slots__ = ("depth",)
    inputs: tuple[ArrayNode, ...]
    depth: tuple[tuple[int, int], ...]

    def __init__(self, input_: ArrayNode, depth: tuple[tuple[int, int], ...], chunks: Chunks, token: str) -> None:
        self.inputs, self.depth = (input_,), depth
        self.chunks, self.dtype, self.token, self.label = chunks, input_.dtype, token, "overlap"


class Reshape(ArrayNode):
    """Block ``i`` of the result (in C order of its grid) is block ``i`` of the input, reshaped."""

    __slots__ = ()
    inputs: tuple[ArrayNode, ...]

    def __init__(self, input_: ArrayNode, chunks: Chunks, token: str) -> None:
        self.inputs = (input_,)
        self.chunks, self.dtype, self.token, self.label = chunks, input_.dtype, token, "reshape"


class Merge(ArrayNode):
    """Sorted blocks (one-dimensional) merged into one sorted array, in blocks of the same sizes.

    The second input tells how every ``spacing``-th elements of the first one rank: :mod:`tilework.plan.sorting`.
    ``key`` is the field to sort by; None is the element itself.
    """

    __slots__ = ("key", "spacing")
    inputs: tuple[ArrayNode, ...]
    spacing: int
    key: str | None

    def __init__(self, runs: ArrayNode, ranked: ArrayNode, spacing: int, key: str | None, token: str) -> None:
        self.inputs, self.spacing, self.key = (runs, ranked), spacing, key
        self.chunks, self.dtype, self.token, self.label = runs.chunks, runs.dtype, token, "merge"


class HeldArray(ArrayNode):
    """An array whose blocks are futures: ``handles``, in C order of the grid."""

    __slots__ = ("handles",)
    handles: tuple[Handle, ...]

    def __init__(
        self, handles: tuple[Handle, ...], chunks: Chunks, dtype: np.dtype[Any], token: str, label: str
    ) -> None:
        self.inputs, self.handles = (), handles
        self.chunks, self.dtype, self.token, self.label = chunks, dtype, token, label


class FromValue(ArrayNode):
    """A one-block array whose block is the value of a Call or a future (checked for shape and dtype when it comes)."""

    __slots__ = ()
    inputs: tuple[Node, ...]

    def __init__(self, input_: Node, chunks: Chunks, dtype: np.dtype[Any], token: str, label: str) -> None:
        self.inputs = (input_,)
        self.chunks, self.dtype, self.token, self.label = chunks, dtype, token, label


class Call(Node):
    """A delayed call ``fn(*args, **kwargs)``. Nodes in arguments are replaced by Slots into ``inputs``.

    ``flat`` promises that Slots sit at the top level of ``args`` only and that ``kwargs`` is empty: the fast path.
    Made a hundred thousand times in a loop, so the constructor does nothing but store.
    """

    __slots__ = ("args", "flat", "fn", "kwargs", "retries")
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    flat: bool
    retries: int

    def __init__(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: tuple[Node, ...],
        token: str,
        label: str,
        flat: bool,
    ) -> None:
        self.fn, self.args, self.kwargs, self.inputs = fn, args, kwargs, inputs
        self.token, self.label, self.flat = token, label, flat
        self.retries = 0


class HeldValue(Node):
    """The value of a future: what a Call takes, or what is wanted of a plan."""

    __slots__ = ("handle",)
    handle: Handle

    def __init__(self, handle: Handle, token: str, label: str) -> None:
        self.inputs, self.handle, self.token, self.label = (), handle, token, label


class Whole(Node):
    """The array ``inputs[0]``, which is one block, as an argument of a Call."""

    __slots__ = ()
    inputs: tuple[ArrayNode, ...]

    def __init__(self, input_: ArrayNode) -> None:
        self.inputs, self.token, self.label = (input_,), "whole-" + input_.token, "whole"


class Store(Node):
    """The array ``inputs[0]`` written to ``sink`` at ``offset`` (one start per axis), block by block."""

    __slots__ = ("offset", "sink")
    inputs: tuple[ArrayNode, ...]
    sink: Sink
    offset: tuple[int, ...]

    def __init__(
        self, input_: ArrayNode, sink: Sink, offset: tuple[int, ...], token: str, label: str = "store"
    ) -> None:
        self.inputs, self.sink, self.offset, self.token, self.label = (input_,), sink, offset, token, label


__all__ = [
    "ArrayNode",
    "AxisChunks",
    "BlockFunction",
    "Blockwise",
    "Call",
    "Concatenate",
    "Elementwise",
    "FromValue",
    "HeldArray",
    "HeldValue",
    "Merge",
    "Node",
    "Op",
    "Overlap",
    "Points",
    "Rechunk",
    "Reduce",
    "Reshape",
    "Scan",
    "ScanFunctions",
    "Slice",
    "Slot",
    "Source",
    "Store",
    "Take",
    "Whole",
]
