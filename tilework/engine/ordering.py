"""The depth-first order of a task graph, computed on whole arrays.

Every task hangs under its first user, which makes a forest (links of a chain count as users only where there are no
others). Numbering that forest in postorder (children in the order in which their parent needs them) is depth first: a
task's inputs are made right before it, and what they hold is freed soon. Trees that need something of an earlier tree
follow it: to subtract the mean of each column, all blocks of a column come before those of the next one. A task that
also needs something from elsewhere in the forest is moved behind it. Millions of tasks take about a second, because the work goes stage by stage
and never task by task (but for stages that depend on themselves).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np


def depth_first_rank(offsets: np.ndarray, indptr: np.ndarray, deps: np.ndarray) -> np.ndarray:
    """Position of each task in a depth-first order that one worker can follow.

    Parameters
    ----------
    offsets
        Tasks of stage ``s`` are ``offsets[s]:offsets[s + 1]``; producers come before users.
    indptr, deps
        Task ``t`` needs ``deps[indptr[t]:indptr[t + 1]]``, all smaller than ``t``.

    Returns
    -------
    numpy.ndarray
        int32, a permutation; inputs have smaller ranks than their users.
    """
    n = int(offsets[-1])
    if len(offsets) == 2 or not len(deps):  # one stage: numbered depth first already
        return np.arange(n, dtype=np.int32)
    users = np.repeat(np.arange(n, dtype=np.int32), np.diff(indptr))
    stages = [(a, b) for a, b in pairwise(offsets.tolist()) if a < b]
    inner = {(a, b) for a, b in stages if _within(deps[indptr[a] : indptr[b]], a)}
    parent = np.full(n, -1, np.int32)
    parent[deps[::-1]] = users[::-1]  # the last write wins: the first user
    for a, b in inner:
        _prefer_others(parent, deps, users, a, b)
    size = _sizes(parent, stages, inner)
    key = _postorder(parent, size, stages, inner, users, indptr, deps)
    _move_behind(key, stages, inner, indptr, deps)
    order = np.argsort(key, kind="stable")
    rank = np.empty(n, np.int32)
    rank[order] = np.arange(n, dtype=np.int32)
    return rank


def _prefer_others(parent: np.ndarray, deps: np.ndarray, users: np.ndarray, a: int, b: int) -> None:
    """Hang what the tasks ``a:b``, which form chains, need under its first other user, if it has one.

    A scan's chain of offsets reaches through all blocks: if they hung under it, all of them would be made before the
    first is used up.
    """
    chained = (parent[deps] >= a) & (parent[deps] < b)
    others = chained & ((users < a) | (users >= b))
    parent[deps[others][::-1]] = users[others][::-1]


def _within(needed: np.ndarray, first: int) -> bool:
    return bool(len(needed)) and int(needed.max()) >= first


def _sizes(parent: np.ndarray, stages: list[tuple[int, int]], inner: set[tuple[int, int]]) -> np.ndarray:
    """Number of tasks in the tree under each task, itself included."""
    size = np.ones(len(parent), np.int64)
    for a, b in stages:
        up = parent[a:b]
        if (a, b) in inner:
            for t, p in zip(range(a, b), up.tolist(), strict=True):
                if p >= 0:
                    size[p] += size[t]
        else:
            has = up >= 0
            np.add.at(size, up[has], size[a:b][has])
    return size


def _postorder(
    parent: np.ndarray,
    size: np.ndarray,
    stages: list[tuple[int, int]],
    inner: set[tuple[int, int]],
    users: np.ndarray,
    indptr: np.ndarray,
    deps: np.ndarray,
) -> np.ndarray:
    """Postorder number of each task in the forest; gaps do not matter."""
    start = np.zeros(len(parent), np.int64)
    roots = _roots(parent, users, deps)
    weight = size[roots]
    start[roots] = np.cumsum(weight) - weight
    for a, b in reversed(stages):
        lo, hi = int(indptr[a]), int(indptr[b])
        if lo == hi:
            continue
        if (a, b) in inner:
            for t in range(b - 1, a - 1, -1):
                at = int(start[t])
                for d in deps[indptr[t] : indptr[t + 1]].tolist():
                    if parent[d] == t:
                        start[d] = at
                        at += int(size[d])
            continue
        needed, user = deps[lo:hi], users[lo:hi]
        tree = parent[needed] == user
        weight = np.where(tree, size[needed], 0)
        before = np.cumsum(weight) - weight
        base = before[np.minimum(indptr[a:b] - lo, hi - lo - 1)]
        child = needed[tree]
        start[child] = start[user[tree]] + before[tree] - base[user[tree] - a]
    return start + size - 1


def _roots(parent: np.ndarray, users: np.ndarray, deps: np.ndarray) -> np.ndarray:
    """The roots of the forest in the order in which their trees are done: those that share something together."""
    roots = np.flatnonzero(parent < 0)
    if len(roots) == 1:
        return roots
    tree = _top(np.where(parent < 0, np.arange(len(parent)), parent))
    user, needed = tree[users], tree[deps]
    across = needed < user
    before = np.arange(len(parent))
    before[roots] = -1
    np.maximum.at(before, user[across], needed[across])  # the last of the earlier trees that one needs something of
    before[roots] = np.where(before[roots] < 0, roots, before[roots])
    return roots[np.argsort(_top(before)[roots], kind="stable")]


def _top(above: np.ndarray) -> np.ndarray:
    """Follow ``above`` from each task up to where it ends (in itself)."""
    while True:
        higher = above[above]
        if np.array_equal(higher, above):
            return above
        above = higher


def _move_behind(
    key: np.ndarray, stages: list[tuple[int, int]], inner: set[tuple[int, int]], indptr: np.ndarray, deps: np.ndarray
) -> None:
    """Raise each key to the largest key among its inputs; ties are broken by task number, which is topological."""
    for a, b in stages:
        lo, hi = int(indptr[a]), int(indptr[b])
        if lo == hi:
            continue
        if (a, b) in inner:
            for t in range(a, b):
                needed = deps[indptr[t] : indptr[t + 1]]
                if len(needed):
                    key[t] = max(key[t], key[needed].max())
            continue
        has = np.flatnonzero(np.diff(indptr[a : b + 1])) + a
        latest = np.maximum.reduceat(key[deps[lo:hi]], indptr[has] - lo)
        key[has] = np.maximum(key[has], latest)
