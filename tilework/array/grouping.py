"""Reductions by groups along an axis, and the order that puts groups together.

If it is known when the program is built which group each position belongs to (``codes``, a NumPy array; -1: none), the
way to reduce is chosen then:

- *Block by block.* Where groups follow each other (resampling, years), the axis is rechunked so that blocks end where
  groups end, and each block makes the answers of its own groups. The same serves after the members of each group have
  been brought together: for operations that need all of them at once (median, quantile), and where a block has few
  members of each group (days of the year), so that reducing it would not make it smaller.
- *As a tree.* Where a block has many members of groups that other blocks have members of too (months of many years),
  or a group is too large for a block: each block gives one partial result for every group that it has members of,
  together with the groups' numbers, and partial results of equal number are joined.

If the codes are lazy themselves, each value is paired with its code, and the pairs are reduced as a tree; operations
that need all members at once get the whole axis in one block.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from tilework.array.core import Array
from tilework.array.creation import asarray, full, full_like
from tilework.array.elementwise import Mapped, cast, pick
from tilework.array.groups import (
    EMPTY,
    FUNCTIONS,
    GroupedReduction,
    Groups,
    GroupsOfBlock,
    GroupsOfPairs,
    Job,
    PairedReduction,
    with_codes,
)
from tilework.array.order import block_limit, in_one_block
from tilework.array.ufuncs import notnull
from tilework.base.errors import PlanError, UnsupportedError
from tilework.plan import blocks, build
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.reductions import Reduction


def groupby_reduce(
    x: Any,
    codes: np.ndarray | Array,
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
        For each position along ``axis`` the number of its group, from 0 to before ``size``; -1 belongs to none. May be
        lazy.
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
    lazy, known = (codes, np.empty(0, np.int64)) if isinstance(codes, Array) else (None, codes)
    if x.dtype.kind in "mM" and func.endswith(("mean", "median", "quantile")):
        numbers = Array(build.elementwise(Mapped(_numbers), [x.node], float))
        options: dict[str, Any] = {"also": also, "fill_value": fill_value, "min_count": min_count, "q": q}
        found = groupby_reduce(numbers, codes, size, func, axis, **options)
        return Array(build.elementwise(Mapped(_dates, (("dtype", x.dtype),)), [found.node], x.dtype, func))
    if x.dtype.kind == "b" and func.endswith(("median", "quantile")):
        x = Array(cast(x.node, int))
    nullable = x.dtype.kind in "fcmMO"
    missing = None if lazy is not None else _members(x, known, size, also) < (1 if nullable else max(1, min_count))
    fill = EMPTY.get(func, np.nan) if fill_value is None else fill_value
    values = notnull(x) if nullable else full_like(x, True, dtype=bool)
    if func == "count":
        x, func, dtype = values, "sum", dtype or np.intp
    job = Job.of(x, func, axis, also, ddof, q, dtype)
    fills = fill_value is not None or missing is None or missing.any()
    wide = _promoted(job.dtype, fill) if fills else job.dtype
    groups = Groups(known, size, missing, _filling(fill, wide) if fills else None, wide)
    result = _reduced(x.node, groups, job) if lazy is None else _with_lazy_codes(x.node, lazy.node, groups, job)
    if (nullable or lazy is not None) and min_count > 0 and not _says_so(func, min_count, fill):
        found = groupby_reduce(values, codes, size, "sum", axis, also=also)
        enough = build.elementwise(np.greater_equal, [found.node, min_count])
        wide = _promoted(job.dtype, fill)
        result = build.elementwise(pick, [enough, cast(result, wide), _filling(fill, wide)], wide, func)
    return Array(result)


def _members(x: Array, codes: np.ndarray, size: int, also: Sequence[int]) -> np.ndarray:
    """How many elements belong to each group."""
    return np.bincount(codes[codes >= 0], minlength=size) * prod(x.shape[k] for k in also)


def _checked(x: Array, codes: Any, size: int, func: str, axis: int) -> Any:
    codes = codes if isinstance(codes, Array) else np.asarray(codes)
    if func not in FUNCTIONS:
        raise UnsupportedError(f"groupby: there is no reduction {func!r}; use one of {', '.join(FUNCTIONS)}, or map()")
    if codes.shape != (x.shape[axis],):
        raise PlanError(f"groupby: codes of shape {codes.shape} do not fit axis {axis} of an array of shape {x.shape}")
    if isinstance(codes, Array):
        return codes
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
    gives_nan = func.startswith("nan") and func not in EMPTY
    return gives_nan and min_count == 1 and isinstance(fill, float | np.floating) and fill != fill


# ---------------------------------------------------------------- the way to reduce


def _reduced(node: ArrayNode, groups: Groups, job: Job) -> ArrayNode:
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
    return _dropped(found, job)


def _dropped(found: ArrayNode, job: Job) -> ArrayNode:
    """Without the axes, of length one by now, that were reduced besides that of the groups."""
    dropped = [len(job.lead) + k for k in job.axes[1:]]
    return build.rearrange(found, [k for k in range(found.ndim) if k not in dropped], label=job.label)


def _with_lazy_codes(node: ArrayNode, codes: ArrayNode, groups: Groups, job: Job) -> ArrayNode:
    """The answers of groups that are known only when the program runs."""
    labels = tuple(range(node.ndim))
    pairing = BlockFunction(with_codes, (Slot(0), Slot(1)), {"axis": job.axis})
    dtype = np.dtype([("value", node.dtype), ("code", codes.dtype)])
    pairs = build.blockwise(pairing, labels, [(node, labels), (codes, (job.axis,))], dtype, label="group")
    if job.tree is not None:
        by_groups = PairedReduction(job.tree, groups, job.axis)
        reduction = Reduction(
            job.label, by_groups.partial, by_groups.combine, by_groups.finalize,
            partial_itemsize=job.tree.partial_itemsize * min(groups.size, node.chunks[job.axis].largest),
            dtype=groups.dtype,
        )  # fmt: skip
        sizes = {job.axis: groups.size}
        return _dropped(build.reduce(pairs, reduction, job.axes, groups.dtype, keepdims=True, out_sizes=sizes), job)
    whole = in_one_block(pairs, job.axes, f"groupby {job.label} by lazy labels")
    lead: tuple[Hashable, ...] = tuple(("q", k) for k in range(len(job.lead)))
    adjust: dict[Any, Any] = dict.fromkeys(job.axes, 1) | {job.axis: groups.size}
    function = BlockFunction(GroupsOfPairs(groups, job), (Slot(0),), scratch=2.0)
    new = dict(zip(lead, job.lead, strict=True))
    answers = build.blockwise(
        function, (*lead, *labels), [(whole, labels)], groups.dtype, new_axes=new, adjust_chunks=adjust, label=job.label
    )
    return _dropped(answers, job)


def _most_groups(node: ArrayNode, groups: Groups, job: Job) -> int:
    """How many groups a block has members of at most."""
    parts = np.split(groups.codes, node.chunks[job.axis].bounds[1:-1])
    return max(len(np.unique(codes[codes >= 0])) for codes in parts)


def _shrinks(node: ArrayNode, groups: Groups, job: Job) -> bool:
    """Whether the partial results of blocks are much smaller than blocks."""
    return node.chunks[job.axis].largest >= 4 * _most_groups(node, groups, job)


def _in_order(node: ArrayNode, groups: Groups, job: Job) -> ArrayNode | None:
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


def _brought_together(node: ArrayNode, groups: Groups, job: Job) -> ArrayNode:
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


def _row_bytes(node: ArrayNode, job: Job) -> int:
    """Bytes of an element for all positions along the axes that are also reduced."""
    return node.dtype.itemsize * prod(node.chunks[k].total for k in job.axes[1:])


def _bytes(node: ArrayNode, job: Job, length: int, row_bytes: int | None = None) -> float:
    """Bytes of the largest block, if it had ``length`` positions along the axis."""
    kept = prod(c.largest for k, c in enumerate(node.chunks) if k not in job.axes)
    return float(length * kept * (row_bytes or _row_bytes(node, job)))


def _divided(node: ArrayNode, job: Job, length: int, row_bytes: int) -> ArrayNode:
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


def _block_by_block(node: ArrayNode, groups: Groups, job: Job, cuts: np.ndarray) -> ArrayNode:
    """Each block makes the answers of the groups that it holds."""
    axis = AxisChunks(np.diff(cuts).tolist())
    node = build.rechunk(node, tuple(axis if k == job.axis else c for k, c in enumerate(node.chunks)))
    lead, labels = tuple(("q", k) for k in range(len(job.lead))), tuple(range(node.ndim))
    # Groups without members belong to the block before them.
    firsts = [0, *(int(codes[np.argmax(codes >= 0)]) for codes in np.split(groups.codes, cuts[1:-1])[1:]), groups.size]
    function = GroupsOfBlock(groups, job, axis, np.array(firsts))
    adjust: dict[Any, Any] = dict.fromkeys(job.axes, 1)
    adjust[job.axis] = tuple(np.diff(firsts).tolist())
    return build.blockwise(
        BlockFunction(function, (Slot(0),), place=True, scratch=2.0), (*lead, *labels), [(node, labels)], groups.dtype,
        new_axes=dict(zip(lead, job.lead, strict=True)), adjust_chunks=adjust, label=job.label,
    )  # fmt: skip


def _as_tree(node: ArrayNode, groups: Groups, job: Job) -> ArrayNode:
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
