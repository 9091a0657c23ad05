"""What is done to the groups within a block, and to those of several blocks that are joined.

Groups of equal size are reduced in one call: their members are gathered into an array with one more axis. A group that
is large, or whose members lie next to each other, is reduced by itself, the latter without a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from tilework.array.core import Array
from tilework.array.order import nanmedian_of_block, nanquantile_of_block
from tilework.base.errors import PlanError
from tilework.base.tokens import tokenize
from tilework.plan import reducers
from tilework.plan.blocks import AxisChunks
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
EMPTY = {"sum": 0, "nansum": 0, "prod": 1, "nanprod": 1, "count": 0, "any": False, "all": False}
"""The answer for a group without members; NaN or NaT for all that is not named here."""

FUNCTIONS = (*_TREES, "count", "first", "nanfirst", "last", "nanlast", "median", "nanmedian", "quantile", "nanquantile")
"""What :func:`groupby_reduce` can do."""


@dataclass(frozen=True)
class Job:
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
    def of(cls, x: Array, func: str, axis: int, also: Axes, ddof: float, q: Any, dtype: Any) -> Job:
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


@dataclass(frozen=True)
class Groups:
    """``codes`` says the group of each position along an axis; ``missing`` which groups are answered ``fill``.

    Of groups that are known only when the program runs there are no codes, and ``missing`` is None.
    """

    codes: np.ndarray
    size: int
    missing: np.ndarray | None
    fill: Any
    dtype: np.dtype[Any]  # of the answers

    def missing_but(self, found: np.ndarray) -> np.ndarray:
        """Which groups are missing, if there are members of those whose numbers were ``found``."""
        if self.missing is not None:
            return self.missing
        missing = np.ones(self.size, bool)
        missing[found] = False
        return missing

    def __tilework_token__(self) -> str:
        missing = None if self.missing is None else self.missing.tobytes()
        return tokenize(self.codes.tobytes(), self.size, missing, self.fill, self.dtype)


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
_RUN = 1 << 12  # the same if they lie next to each other, so that nothing is copied
_GATHERED = 1 << 22  # elements that are gathered at a time


def each_group(function: OfMembers, parts: Parts, axis: int, axes: Axes, members: Members) -> Parts:
    """``function(parts, axes)`` of the members of every group along ``axis``, one of ``axes``; one row each."""
    if not len(members.ids):
        rows = function(tuple(_rows(part, axis, slice(0, 0)) for part in parts), axes)
        return tuple(_rows(row, axis, slice(0, 0)) for row in rows)
    counts = np.diff(members.starts)
    width = max(1, parts[0].size // max(1, parts[0].shape[axis]))
    run = members.order[members.starts[1:] - 1] - members.order[members.starts[:-1]] == counts - 1
    large = counts * width >= np.where(run, _RUN, _LARGE)
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


def along(values: np.ndarray, axis: int, ndim: int) -> np.ndarray:
    """A vector laid along one axis of several."""
    return values.reshape([-1 if k == axis else 1 for k in range(ndim)])


def in_their_places(rows: np.ndarray, axis: int, ids: np.ndarray, missing: np.ndarray, groups: Groups) -> np.ndarray:
    """Rows put where their groups are; groups that are missing get the fill value."""
    out = np.empty([len(missing) if k == axis else n for k, n in enumerate(rows.shape)], groups.dtype)
    before: tuple[Any, ...] = (slice(None),) * axis
    out[(*before, ids)] = rows
    if missing.any():
        out[(*before, missing)] = groups.fill
    return out


@dataclass(frozen=True)
class GroupsOfBlock:
    """The answers of the groups of a block, which holds all of their members."""

    groups: Groups
    job: Job
    chunks: AxisChunks
    firsts: np.ndarray  # block k makes the answers of groups firsts[k] to firsts[k + 1]

    def __call__(self, block: np.ndarray, block_place: BlockPlace) -> np.ndarray:
        job, axis = self.job, self.job.axis
        k = block_place.index[axis + len(job.lead)]
        here = slice(int(self.chunks.bounds[k]), int(self.chunks.bounds[k + 1]))
        members = Members.of(self.groups.codes[here])
        rows = each_group(job.function, (block,), axis, tuple(sorted(job.axes)), members)
        first, last = int(self.firsts[k]), int(self.firsts[k + 1])
        missing = self.groups.missing_but(members.ids)[first:last]
        answers = [in_their_places(row, axis, members.ids - first, missing, self.groups) for row in rows]
        return np.stack(answers) if job.lead else answers[0]

    def __tilework_token__(self) -> str:
        return tokenize(self.groups, self.job, self.chunks)


@dataclass(frozen=True)
class GroupedReduction:
    """A tree reduction by groups, made of one for all. The last component of a partial are the groups' numbers."""

    reduction: Reduction
    groups: Groups
    axis: int

    def partial(self, block: np.ndarray, axis: Axes, block_place: BlockPlace) -> Parts:
        first = block_place.offset(self.axis)
        members = Members.of(self.groups.codes[first : first + block.shape[self.axis]])
        rows = each_group(partial(_of_one, self.reduction.partial), (block,), self.axis, axis, members)
        return (*rows, along(members.ids, self.axis, block.ndim))

    def combine(self, parts: Parts, axis: Axes) -> Parts:
        *values, ids = parts
        members = Members.of(self._numbers(ids))
        rows = each_group(self.reduction.combine, tuple(values), self.axis, axis, members)
        return (*rows, along(members.ids, self.axis, ids.ndim))

    def finalize(self, parts: Parts) -> np.ndarray:
        *values, ids = parts
        rows, numbers = self.reduction.finalize(tuple(values)), self._numbers(ids)
        return in_their_places(rows, self.axis, numbers, self.groups.missing_but(numbers), self.groups)

    def _numbers(self, ids: np.ndarray) -> np.ndarray:
        return np.moveaxis(ids, self.axis, -1)[(0,) * (ids.ndim - 1)]

    def __tilework_token__(self) -> str:
        return tokenize(self.reduction, self.groups, self.axis)


# ---------------------------------------------------------------- groups that are known when the program runs


def with_codes(x: np.ndarray, codes: np.ndarray, *, axis: int) -> np.ndarray:
    """A block whose elements are pairs of a value and the number of its group."""
    pairs = np.empty(x.shape, [("value", x.dtype), ("code", codes.dtype)])
    pairs["value"] = x
    pairs["code"] = along(codes, axis, x.ndim)
    return pairs


def _apart(pairs: np.ndarray, axis: int) -> tuple[np.ndarray, Members]:
    codes = np.moveaxis(pairs["code"], axis, -1)
    first = codes[(0,) * (codes.ndim - 1)] if codes.size else codes.reshape(-1)
    return pairs["value"], Members.of(first)


class PairedReduction(GroupedReduction):
    """The same for blocks of pairs."""

    def partial(self, block: np.ndarray, axis: Axes) -> Parts:  # type: ignore[override]
        values, members = _apart(block, self.axis)
        rows = each_group(partial(_of_one, self.reduction.partial), (values,), self.axis, axis, members)
        return (*rows, along(members.ids, self.axis, block.ndim))


@dataclass(frozen=True)
class GroupsOfPairs:
    """The answers of all groups, of one block of pairs."""

    groups: Groups
    job: Job

    def __call__(self, block: np.ndarray) -> np.ndarray:
        values, members = _apart(block, self.job.axis)
        rows = each_group(self.job.function, (values,), self.job.axis, tuple(sorted(self.job.axes)), members)
        missing = self.groups.missing_but(members.ids)
        answers = [in_their_places(row, self.job.axis, members.ids, missing, self.groups) for row in rows]
        return np.stack(answers) if self.job.lead else answers[0]


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
