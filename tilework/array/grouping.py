"""Reductions by groups along an axis, and the order that puts groups together.

Which group each position belongs to is known when the program is built (``codes``, a NumPy array; -1: none), so the
way to reduce is chosen then:

- *Block by block.* Where groups follow each other (resampling, years), the axis is rechunked so that blocks end where
  groups end, and each block makes the answers of its own groups. The same serves after the members of each group have
  been brought together: for operations that need all of them at once (median, quantile), and where a block has few
  members of each group (days of the year), so that reducing it would not make it smaller.
- *As a tree.* Where a block has many members of groups that other blocks have members of too (months of many years),
  or a group is too large for a block: each block gives one partial result for every group that it has members of,
  together with the groups' numbers, and partial results of equal number are joined.

Within a block, groups of equal size are reduced in one call: their members are gathered into an array with one more
axis. A group that is large is reduced by itself, without a copy if its members lie next to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from tilework.array.core import Array
from tilework.array.creation import asarray, full, full_like
from tilework.array.elementwise import Mapped, cast, pick
from tilework.array.order import block_limit, in_one_block, nanmedian_of_block, nanquantile_of_block
from tilework.array.ufuncs import notnull
from tilework.base.errors import PlanError, UnsupportedError
from tilework.base.tokens import tokenize
from tilework.plan import blocks, build, reducers
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.reductions import Reduction
from tilework.plan.stages import BlockPlace

Axes: TypeAlias = tuple[int, ...]
Parts: TypeAlias = tuple[np.ndarray, ...]
OfMembers: TypeAlias = Callable[[Parts, Axes], Any]
"""Reduces arrays along axes, all members of a group at once, and keeps these axes with length one."""


# ---------------------------------------------------------------- what can be done to groups

_TREES: dict[str, Callable[..., Reduction]] = {
    "sum": reducers.sum_, "nansum": reducers.nansum, "prod": reducers.prod, "nanprod": reducers.nanprod,
    "mean": reducers.mean, "nanmean": reducers.nanmean, "min": reducers.min_, "nanmin": reducers.nanmin,
    "max": reducers.max_, "nanmax": reducers.nanmax, "var": reducers.var, "nanvar": reducers.nanvar,
    "std": reducers.std, "nanstd": reducers.nanstd, "any": reducers.any_, "all": reducers.all_,
}  # fmt: skip
_EMPTY = {"sum": 0, "nansum": 0, "prod": 1, "nanprod": 1, "count": 0, "any": False, "all": False}
"""The answer for a group without members; NaN or NaT for all that is not named here."""

FUNCTIONS = (*_TREES, "count", "first", "nanfirst", "last", "nanlast", "median", "nanmedian", "quantile", "nanquantile")
"""What :func:`groupby_reduce` can do."""


def groupby_reduce(
    x: Any,
    codes: np.ndarray,
    size: int,
    func: str,
    axis: int,
    *,
    also: Sequence[int] = (),
    fill_value: Any = None,
    min_count: int = 0,
    ddof: float = 0,
    q: Any = None,
    dtype: Any = None,
) -> Array:
    """Reduce groups of positions along an axis.

    Parameters
    ----------
    x
        The array.
    codes
        For each position along ``axis`` the number of its group, from 0 to before ``size``; -1 belongs to none.
    size
        Number of groups, some of which may have no members.
    func
        One of :data:`FUNCTIONS`.
    axis
        The axis, which becomes the axis of groups.
    also
        Axes that are reduced as a whole, and dropped.
    fill_value
        The answer for groups without members, or with fewer values that are not NaN than ``min_count``. Default: that
        of the function (0 for sums), or NaN.
    min_count
        See ``fill_value``.
    ddof
        For variances and standard deviations.
    q
        For quantiles. Several ones become the first axis of the result.
    dtype
        Of the result.

    Examples
    --------
    >>> import numpy as np
    >>> import tilework.array as ta
    >>> x = ta.arange(6, chunks=2)
    >>> groupby_reduce(x, np.array([0, 1, 0, 1, 0, -1]), 2, "sum", 0).compute()
    array([6, 4])
    """
    x = asarray(x)
    axis, also = normalize_axis_index(axis, x.ndim), build.normalize_axis(tuple(also), x.ndim)
    codes = _checked(x, codes, size, func, axis)
    if x.dtype.kind in "mM" and func.endswith(("mean", "median", "quantile")):
        numbers = Array(build.elementwise(Mapped(_numbers), [x.node], float))
        options: dict[str, Any] = {"also": also, "fill_value": fill_value, "min_count": min_count, "q": q}
        found = groupby_reduce(numbers, codes, size, func, axis, **options)
        return Array(build.elementwise(Mapped(_dates, (("dtype", x.dtype),)), [found.node], x.dtype, func))
    if x.dtype.kind == "b" and func.endswith(("median", "quantile")):
        x = Array(cast(x.node, int))
    nullable = x.dtype.kind in "fcmMO"
    members = np.bincount(codes[codes >= 0], minlength=size) * prod(x.shape[k] for k in also)
    missing = members < (1 if nullable else max(1, min_count))
    fill = _EMPTY.get(func, np.nan) if fill_value is None else fill_value
    values = notnull(x) if nullable else full_like(x, True, dtype=bool)
    if func == "count":
        x, func, dtype = values, "sum", dtype or np.intp
    job = _Job.of(x, func, axis, also, ddof, q, dtype)
    fills = fill_value is not None or missing.any()
    wide = _promoted(job.dtype, fill) if fills else job.dtype
    result = _reduced(x.node, _Groups(codes, size, missing, _filling(fill, wide) if fills else None, wide), job)
    if nullable and min_count > 0 and not _says_so(func, min_count, fill):
        found = groupby_reduce(values, codes, size, "sum", axis, also=also)
        enough = build.elementwise(np.greater_equal, [found.node, min_count])
        wide = _promoted(job.dtype, fill)
        result = build.elementwise(pick, [enough, cast(result, wide), _filling(fill, wide)], wide, func)
    return Array(result)


def _checked(x: Array, codes: np.ndarray, size: int, func: str, axis: int) -> np.ndarray:
    codes = np.asarray(codes)
    if func not in FUNCTIONS:
        raise UnsupportedError(f"groupby: there is no reduction {func!r}; use one of {', '.join(FUNCTIONS)}, or map()")
    if codes.shape != (x.shape[axis],):
        raise PlanError(f"groupby: codes of shape {codes.shape} do not fit axis {axis} of an array of shape {x.shape}")
    if codes.size and codes.max() >= size:
        raise PlanError(f"groupby: group number {codes.max()} is out of range for {size} groups")
    return np.maximum(codes, -1).astype(np.int64)


def _numbers(dates: np.ndarray) -> np.ndarray:
    """Dates or durations as numbers that can be averaged, NaN for NaT."""
    return np.where(np.isnat(dates), np.nan, dates.view(np.int64))


def _dates(numbers: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    missing = np.isnan(numbers)
    return np.where(missing, np.array("NaT", dtype), np.where(missing, 0, numbers).astype(np.int64).view(dtype))


def _promoted(dtype: np.dtype[Any], fill: Any) -> np.dtype[Any]:
    """A dtype that takes the fill value as well."""
    is_nan = isinstance(fill, float | np.floating) and fill != fill
    if is_nan and dtype.kind in "mMfcO":
        return dtype
    if is_nan and dtype.kind not in "biu":
        return np.dtype(object)
    return np.result_type(dtype, fill)


def _filling(fill: Any, dtype: np.dtype[Any]) -> Any:
    """The fill value in that dtype: NaT for NaN among dates."""
    if dtype.kind in "mM" and isinstance(fill, float | np.floating):
        fill = "NaT"
    return fill if dtype.hasobject else np.asarray(fill).astype(dtype)[()]


def _says_so(func: str, min_count: int, fill: Any) -> bool:
    """Whether the function by itself gives NaN where there are only NaNs, and that is what is asked for."""
    gives_nan = func.startswith("nan") and func not in _EMPTY
    return gives_nan and min_count == 1 and isinstance(fill, float | np.floating) and fill != fill


@dataclass(frozen=True)
class _Job:
    """What is done to the members of each group.

    ``tree`` is None for what needs all members at once. ``function`` gives one array for each quantile; ``lead`` says
    how many, if they are an axis of the result.
    """

    label: str
    axis: int
    axes: Axes
    dtype: np.dtype[Any]
    tree: Reduction | None
    function: OfMembers
    lead: tuple[int, ...] = ()

    @classmethod
    def of(cls, x: Array, func: str, axis: int, also: Axes, ddof: float, q: Any, dtype: Any) -> _Job:
        given = None if dtype is None else np.dtype(dtype)
        axes = (axis, *also)
        if func in _TREES:
            options: dict[str, Any] = {"ddof": ddof} if func.endswith(("var", "std")) else {}
            if func.removeprefix("nan") in ("sum", "prod", "mean", "var", "std"):
                options["dtype"] = given
            tree = _TREES[func](x.dtype, **options)
            assert tree.dtype is not None
            return cls(func, axis, axes, given or tree.dtype, tree, partial(_finished, tree))
        if func in ("first", "last", "nanfirst", "nanlast"):
            end = partial(_end, last=func.endswith("last"), skipna=func.startswith("nan") and x.dtype.kind in "fcmMO")
            tree = Reduction(func, partial(_of_members, end), end, _only, partial_itemsize=x.itemsize, dtype=x.dtype)
            return cls(func, axis, axes, given or x.dtype, tree, end)
        if func.endswith("median"):
            out = np.median(np.ones(1, x.dtype)).dtype
            return cls(func, axis, axes, given or out, None, partial(_median, skipna=func == "nanmedian"))
        if q is None:
            raise PlanError(f"groupby: {func} needs q, the quantiles")
        wide = np.dtype(np.float64) if x.dtype.kind in "biuf" else x.dtype
        function = partial(_quantiles, q=np.asarray(q, np.float64), skipna=func == "nanquantile")
        return cls(func, axis, axes, given or wide, None, function, lead=np.shape(q))


# ---------------------------------------------------------------- the way to reduce


@dataclass(frozen=True)
class _Groups:
    """``codes`` says the group of each position along an axis; ``missing`` which groups are answered ``fill``."""

    codes: np.ndarray
    size: int
    missing: np.ndarray
    fill: Any
    dtype: np.dtype[Any]  # of the answers

    def __tilework_token__(self) -> str:
        return tokenize(self.codes.tobytes(), self.size, self.missing.tobytes(), self.fill, self.dtype)


def _reduced(node: ArrayNode, groups: _Groups, job: _Job) -> ArrayNode:
    """The answers of all groups; axes that are also reduced are dropped."""
    valid = groups.codes[groups.codes >= 0]
    in_order = bool((valid[1:] >= valid[:-1]).all())
    if not len(valid):
        kept = [groups.size if k == job.axis else c for k, c in enumerate(node.chunks) if k not in job.axes[1:]]
        chunks = (*job.lead, *kept)
        shape = [c if isinstance(c, int) else c.total for c in chunks]
        return full(shape, groups.fill, groups.dtype, chunks=chunks).node
    if job.tree is None:
        node = in_one_block(node, job.axes[1:], f"groupby {job.label}")
    whole = all(len(node.chunks[k]) == 1 for k in job.axes[1:])
    found = _in_order(node, groups, job) if in_order and whole else None
    if found is None and (job.tree is None or (whole and not _shrinks(node, groups, job))):
        found = _brought_together(node, groups, job)
    if found is None:
        found = _as_tree(node, groups, job)
    lead = len(job.lead)
    dropped = [lead + k for k in job.axes[1:]]
    return build.rearrange(found, [k for k in range(found.ndim) if k not in dropped], label=job.label)


def _most_groups(node: ArrayNode, groups: _Groups, job: _Job) -> int:
    """How many groups a block has members of at most."""
    parts = np.split(groups.codes, node.chunks[job.axis].bounds[1:-1])
    return max(len(np.unique(codes[codes >= 0])) for codes in parts)


def _shrinks(node: ArrayNode, groups: _Groups, job: _Job) -> bool:
    """Whether the partial results of blocks are much smaller than blocks."""
    return node.chunks[job.axis].largest >= 4 * _most_groups(node, groups, job)


def _in_order(node: ArrayNode, groups: _Groups, job: _Job) -> ArrayNode | None:
    """Groups that follow each other, block by block. None if blocks would be too large and there is another way."""
    chunks = node.chunks[job.axis]
    cuts = _cuts(groups.codes, chunks.bounds[1:-1])
    longest = int(np.diff(cuts).max())
    if longest > chunks.largest:
        fits = longest <= 1.5 * chunks.largest or _bytes(node, job, longest) <= block_limit()
        if job.tree is not None and not fits:
            return None
        node = _divided(node, job, longest, _row_bytes(node, job))
    return _block_by_block(node, groups, job, cuts)


def _brought_together(node: ArrayNode, groups: _Groups, job: _Job) -> ArrayNode:
    """The members of each group next to each other, then block by block."""
    order = np.argsort(groups.codes, kind="stable")
    order = order[np.count_nonzero(groups.codes < 0) :]
    codes, largest = groups.codes[order], max(1, node.chunks[job.axis].largest)
    cuts = _cuts(codes, np.arange(largest, len(codes), largest))
    node = _divided(node, job, int(np.diff(cuts).max()), _row_bytes(node, job))
    node = build.take(node, order, job.axis, AxisChunks(np.diff(cuts).tolist()))
    return _block_by_block(node, replace(groups, codes=codes), job, cuts)


def _cuts(codes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Bounds of blocks that end where groups end, near those that are wanted."""
    members = np.flatnonzero(codes >= 0)
    ends = members[1:][np.diff(codes[members]) > 0]  # where one group ends the next begins
    if not (len(ends) and len(wanted)):
        return np.array([0, len(codes)])
    after = np.minimum(np.searchsorted(ends, wanted), len(ends) - 1)
    before = np.maximum(after - 1, 0)
    nearest = np.where(ends[after] - wanted < wanted - ends[before], ends[after], ends[before])
    return np.concatenate([[0], np.unique(nearest), [len(codes)]])


def _row_bytes(node: ArrayNode, job: _Job) -> int:
    """Bytes of an element for all positions along the axes that are also reduced."""
    return node.dtype.itemsize * prod(node.chunks[k].total for k in job.axes[1:])


def _bytes(node: ArrayNode, job: _Job, length: int, row_bytes: int | None = None) -> float:
    """Bytes of the largest block, if it had ``length`` positions along the axis."""
    kept = prod(c.largest for k, c in enumerate(node.chunks) if k not in job.axes)
    return float(length * kept * (row_bytes or _row_bytes(node, job)))


def _divided(node: ArrayNode, job: _Job, length: int, row_bytes: int) -> ArrayNode:
    """``node`` with the axes that are kept divided so that blocks of this length along the axis stay within bounds.

    The bound is the size of an ``"auto"`` block, or that of present blocks if they are larger.
    """
    kept = [k for k in range(node.ndim) if k not in job.axes]
    limit = max(block_limit(), _bytes(node, job, node.chunks[job.axis].largest))
    if not kept or not all(node.chunks[k].known for k in kept) or _bytes(node, job, length, row_bytes) <= limit:
        return node
    now = tuple(node.chunks[k] for k in kept)
    divided = iter(blocks.rechunk_target("auto", now, f"V{length * row_bytes}", int(limit)))
    return build.rechunk(node, tuple(next(divided) if k in kept else c for k, c in enumerate(node.chunks)))


def _block_by_block(node: ArrayNode, groups: _Groups, job: _Job, cuts: np.ndarray) -> ArrayNode:
    """Each block makes the answers of the groups that it holds."""
    axis = AxisChunks(np.diff(cuts).tolist())
    node = build.rechunk(node, tuple(axis if k == job.axis else c for k, c in enumerate(node.chunks)))
    lead, labels = tuple(("q", k) for k in range(len(job.lead))), tuple(range(node.ndim))
    # Groups without members belong to the block before them.
    firsts = [0, *(int(codes[np.argmax(codes >= 0)]) for codes in np.split(groups.codes, cuts[1:-1])[1:]), groups.size]
    function = _GroupsOfBlock(groups, job, axis, np.array(firsts))
    adjust: dict[Any, Any] = dict.fromkeys(job.axes, 1)
    adjust[job.axis] = tuple(np.diff(firsts).tolist())
    return build.blockwise(
        BlockFunction(function, (Slot(0),), place=True, scratch=2.0), (*lead, *labels), [(node, labels)], groups.dtype,
        new_axes=dict(zip(lead, job.lead, strict=True)), adjust_chunks=adjust, label=job.label,
    )  # fmt: skip


def _as_tree(node: ArrayNode, groups: _Groups, job: _Job) -> ArrayNode:
    """Partial results of blocks, joined by group."""
    assert job.tree is not None
    node = _divided(node, job, groups.size, job.tree.partial_itemsize)
    most = _most_groups(node, groups, job)
    # Few are joined at a time where blocks are not much larger than their partial results.
    every = int(np.clip(node.chunks[job.axis].largest // max(1, most), 2, 16))
    rows = min(groups.size, most * every)
    by_groups = GroupedReduction(job.tree, groups, job.axis)
    reduction = Reduction(
        job.label, by_groups.partial, by_groups.combine, by_groups.finalize,
        partial_itemsize=job.tree.partial_itemsize * rows, place=True, dtype=groups.dtype,
    )  # fmt: skip
    split_every = dict.fromkeys(job.axes, max(2, round(every ** (1 / len(job.axes)))))
    return build.reduce(
        node, reduction, job.axes, groups.dtype, keepdims=True, split_every=split_every,
        out_sizes={job.axis: groups.size},
    )  # fmt: skip


# ---------------------------------------------------------------- groups within a block


@dataclass(frozen=True, slots=True)
class Members:
    """Positions by group: those of group ``ids[k]`` are ``order[starts[k]:starts[k + 1]]``, ascending."""

    ids: np.ndarray
    order: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray) -> Members:
        order = np.argsort(codes, kind="stable")
        order = order[np.searchsorted(codes[order], 0) :]
        ordered = codes[order]
        first = np.flatnonzero(np.concatenate([np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]]))
        return cls(ordered[first], order, np.append(first, len(order)))


_LARGE = 1 << 15  # elements of a group that are worth a call of their own
_GATHERED = 1 << 22  # elements that are gathered at a time


def each_group(function: OfMembers, parts: Parts, axis: int, axes: Axes, members: Members) -> Parts:
    """``function(parts, axes)`` of the members of every group along ``axis``, one of ``axes``; one row each."""
    if not len(members.ids):
        rows = function(tuple(_rows(part, axis, slice(0, 0)) for part in parts), axes)
        return tuple(_rows(row, axis, slice(0, 0)) for row in rows)
    counts = np.diff(members.starts)
    width = max(1, parts[0].size // max(1, parts[0].shape[axis]))
    large = counts * width >= _LARGE
    out: list[np.ndarray] = []

    def put(which: Any, rows: Parts) -> None:
        if not out:
            shapes = ([len(counts) if k == axis else n for k, n in enumerate(row.shape)] for row in rows)
            out.extend(np.empty(shape, row.dtype) for shape, row in zip(shapes, rows, strict=True))
        for whole, row in zip(out, rows, strict=True):
            whole[(slice(None),) * axis + (which,)] = row

    for k in np.flatnonzero(large):
        positions = members.order[members.starts[k] : members.starts[k + 1]]
        put(slice(k, k + 1), function(tuple(_rows(part, axis, positions) for part in parts), axes))
    inner = tuple(a + (a >= axis) for a in axes)
    for count in np.unique(counts[~large]).tolist():
        which = np.flatnonzero((counts == count) & ~large)
        at_once = max(1, _GATHERED // (count * width))
        for some in (which[k : k + at_once] for k in range(0, len(which), at_once)):
            positions = members.order[members.starts[some][:, None] + np.arange(count)]
            rows = function(tuple(np.take(part, positions, axis) for part in parts), inner)
            put(some, tuple(row.squeeze(axis + 1) for row in rows))
    return tuple(out)


def _rows(x: np.ndarray, axis: int, positions: Any) -> np.ndarray:
    """Rows along an axis; a view if they lie next to each other."""
    if isinstance(positions, np.ndarray) and positions[-1] - positions[0] == len(positions) - 1:
        positions = slice(int(positions[0]), int(positions[-1]) + 1)
    return x[(slice(None),) * axis + (positions,)]


def _along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    return values.reshape([-1 if k == axis else 1 for k in range(ndim)])


def _in_their_places(rows: np.ndarray, axis: int, ids: np.ndarray, missing: np.ndarray, groups: _Groups) -> np.ndarray:
    """Rows put where their groups are; groups that are missing get the fill value."""
    out = np.empty([len(missing) if k == axis else n for k, n in enumerate(rows.shape)], groups.dtype)
    before: tuple[Any, ...] = (slice(None),) * axis
    out[(*before, ids)] = rows
    if missing.any():
        out[(*before, missing)] = groups.fill
    return out


@dataclass(frozen=True)
class _GroupsOfBlock:
    """The answers of the groups of a block, which holds all of their members."""

    groups: _Groups
    job: _Job
    chunks: AxisChunks
    firsts: np.ndarray  # block k makes the answers of groups firsts[k] to firsts[k + 1]

    def __call__(self, block: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        job, axis = self.job, self.job.axis
        k = block_place.index[axis + len(job.lead)]
        here = slice(int(self.chunks.bounds[k]), int(self.chunks.bounds[k + 1]))
        members = Members.of(self.groups.codes[here])
        rows = each_group(job.function, (block,), axis, tuple(sorted(job.axes)), members)
        first, last = int(self.firsts[k]), int(self.firsts[k + 1])
        missing = self.groups.missing[first:last]
        answers = [_in_their_places(row, axis, members.ids - first, missing, self.groups) for row in rows]
        return np.stack(answers) if job.lead else answers[0]

    def __tilework_token__(self) -> str:
        return tokenize(self.groups, self.job, self.chunks)


@dataclass(frozen=True)
class GroupedReduction:
    """A tree reduction by groups, made of one for all. The last component of a partial are the groups' numbers."""

    reduction: Reduction
    groups: _Groups
    axis: int

    def partial(self, block: np.ndarray, axis: Axes, block_place: BlockPlace) -> Parts:
        first = block_place.offset(self.axis)
        members = Members.of(self.groups.codes[first : first + block.shape[self.axis]])
        rows = each_group(partial(_of_one, self.reduction.partial), (block,), self.axis, axis, members)
        return (*rows, _along(members.ids, self.axis, block.ndim))

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        *values, ids = parts
        members = Members.of(self._numbers(ids))
        rows = each_group(self.reduction.combine, tuple(values), self.axis, axis, members)
        return (*rows, _along(members.ids, self.axis, ids.ndim))

    def finalize(self, parts: Parts) -> np.ndarray:
        *values, ids = parts
        rows = self.reduction.finalize(tuple(values))
        return _in_their_places(rows, self.axis, self._numbers(ids), self.groups.missing, self.groups)

    def _numbers(self, ids: np.ndarray) -> np.ndarray:
        return np.moveaxis(ids, self.axis, -1)[(0,) * (ids.ndim - 1)]

    def __tilework_token__(self) -> str:
        return tokenize(self.reduction, self.groups, self.axis)


# ---------------------------------------------------------------- functions of members


def _of_one(function: Callable[..., Any], parts: Parts, axes: Axes) -> Parts:
    """A function of one array."""
    return function(parts[0], axis=axes)


def _of_members(function: OfMembers, block: np.ndarray, axis: Axes) -> Parts:
    """The other way round."""
    return function((block,), axis)


def _finished(reduction: Reduction, parts: Parts, axes: Axes) -> Parts:
    return (reduction.finalize(reduction.partial(parts[0], axis=axes)),)


def _end(parts: Parts, axis: Axes, *, last: bool, skipna: bool) -> Parts:
    """The first or last value, as a reduction of members and of partial results alike."""
    (x,), (along,) = parts, axis
    n = x.shape[along]
    if n and skipna:
        valid = x == x
        place = n - 1 - np.argmax(np.flip(valid, along), along) if last else np.argmax(valid, along)
        return (np.take_along_axis(x, np.expand_dims(place, along), along),)
    return (_rows(x, along, slice(n - 1, n) if n and last else slice(0, 1)),)


def _only(parts: Parts) -> np.ndarray:
    (x,) = parts
    return x


def _median(parts: Parts, axes: Axes, *, skipna: bool) -> Parts:
    (x,) = parts
    return (nanmedian_of_block(x, axes) if skipna else np.asarray(np.median(x, axis=axes, keepdims=True)),)


def _quantiles(parts: Parts, axes: Axes, *, q: np.ndarray, skipna: bool) -> Parts:
    (x,) = parts
    found = nanquantile_of_block(x, q, axes) if skipna else np.asarray(np.quantile(x, q, axis=axes, keepdims=True))
    return tuple(found) if q.ndim else (found,)
