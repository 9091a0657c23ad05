"""The depth-first order of a task graph, computed on whole arrays.

Every task hangs under its first user, which makes a forest (links of a chain count as users only where there are no
others). Numbering that forest in postorder (children in the order in which their parent needs them) is depth first: a
task's inputs are made right before it, and what they hold is freed soon. Of the trees under one task (and of all
trees) those that need something of an earlier one follow it at once: to subtract the mean of each column, all blocks of
a column come before those of the next one. A task that also needs something from elsewhere in the forest is moved
behind it. Millions of tasks take about a second, because the work goes stage by stage
and never task by task (but for stages that depend on themselves).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

CLIMB = 100
"""Steps that are climbed towards a common ancestor; trees of blocks are less deep, chains of delayed calls are not."""


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
    place = _together(parent, stages, inner, users, deps)
    key = _postorder(parent, size, place, stages, inner, users, indptr, deps)
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
    place: np.ndarray,
    stages: list[tuple[int, int]],
    inner: set[tuple[int, int]],
    users: np.ndarray,
    indptr: np.ndarray,
    deps: np.ndarray,
) -> np.ndarray:
    """Postorder number of each task in the forest; gaps do not matter."""
    start = np.zeros(len(parent), np.int64)
    roots = np.flatnonzero(parent < 0)
    roots = roots[np.argsort(place[roots], kind="stable")]
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
        order = np.lexsort((place[deps[lo:hi]], users[lo:hi]))
        needed, user = deps[lo:hi][order], users[lo:hi][order]
        tree = parent[needed] == user
        weight = np.where(tree, size[needed], 0)
        before = np.cumsum(weight) - weight
        base = before[np.minimum(indptr[a:b] - lo, hi - lo - 1)]
        child = needed[tree]
        start[child] = start[user[tree]] + before[tree] - base[user[tree] - a]
    return start + size - 1


def _together(
    parent: np.ndarray, stages: list[tuple[int, int]], inner: set[tuple[int, int]], users: np.ndarray, deps: np.ndarray
) -> np.ndarray:
    """Where each task comes among those with the same parent: a key to sort them by.

    By itself a task has the place at which its parent names it. But if anything in its tree needs something in the tree
    of an earlier sibling, it goes with the last of these.
    """
    place = np.arange(len(parent))  # of roots
    hangs = parent[deps] == users
    place[deps[hangs]] = np.flatnonzero(hangs)
    one, other = _siblings(users[~hangs], deps[~hangs], parent, _depths(parent, stages, inner))
    later = place[other] < place[one]
    one, other = one[later], other[later]
    leader = np.arange(len(parent))
    last = np.argsort(place[other], kind="stable")
    leader[one[last]] = other[last]  # the last write wins
    while not np.array_equal(above := leader[leader], leader):
        leader = above
    return place[leader]


def _depths(parent: np.ndarray, stages: list[tuple[int, int]], inner: set[tuple[int, int]]) -> np.ndarray:
    """Number of tasks above each one."""
    depth = np.zeros(len(parent), np.int32)
    for a, b in reversed(stages):
        if (a, b) in inner:
            for t in range(b - 1, a - 1, -1):
                depth[t] = depth[parent[t]] + 1 if parent[t] >= 0 else 0
        else:
            depth[a:b] = np.where(parent[a:b] >= 0, depth[parent[a:b]] + 1, 0)
    return depth


def _siblings(
    one: np.ndarray, other: np.ndarray, parent: np.ndarray, depth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The tasks above (or at) each pair that have the same parent, or none; pairs of which one is above the other drop.

    Chains are climbed only so far: pairs that are not there after :data:`CLIMB` steps drop as well.
    """
    found: list[tuple[np.ndarray, np.ndarray]] = [(one[:0], other[:0])]
    for _ in range(CLIMB):
        if not len(one):
            break
        up, down = depth[one] - depth[other], parent[one] != parent[other]
        there = (up == 0) & ~down
        found.append((one[there & (one != other)], other[there & (one != other)]))
        one, other, up = one[~there], other[~there], up[~there]
        one, other = np.where(up >= 0, parent[one], one), np.where(up <= 0, parent[other], other)
    ones, others = zip(*found, strict=True)
    return np.concatenate(ones), np.concatenate(others)


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
