"""Sorted blocks merged into one sorted array of any size: which part of each block goes where.

Every block is a sorted *run*. Elements are ordered by value, then run, then place in the run, so that no two are equal
and a stable sort of the runs gives a stable sort of the whole. The elements of ranks ``lo`` to ``hi`` are, in every
run, one stretch: it ends where the run is cut at rank ``hi``. To find a cut, every ``spacing``-th element of every run
is known beforehand, in order (:func:`ranking`): that tells, for every run, a window in which it is cut
(:func:`windows`). The windows of all runs together hold less than one block, and are looked through (:func:`cuts`).

This is the exact splitting of P. J. Varman, S. D. Scheufler, B. R. Iyer and G. R. Ricard, "Merging multiple lists on
hierarchical-memory multiprocessors", J. Parallel Distrib. Comput. 12 (1991), with one round of samples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def spacing_for(sizes: np.ndarray) -> int:
    """How far samples may be apart, so that windows hold less than a block: ``2 n + 1`` of them are looked through."""
    return max(1, int(sizes.max(initial=0)) // (4 * max(1, len(sizes))))


def ranking(samples: np.ndarray, sizes: np.ndarray, spacing: int) -> np.ndarray:
    """The run of each sample, in the order of the samples. They come run by run, the first element of each included."""
    counts = -(-sizes // spacing)
    runs = np.repeat(np.arange(len(sizes), dtype=np.int32), counts)
    return runs[np.argsort(samples, kind="stable")]


def windows(rank: int, ranked: np.ndarray, sizes: np.ndarray, spacing: int) -> tuple[np.ndarray, np.ndarray]:
    """For each run: where it is cut at ``rank`` at the earliest, and at the latest.

    Of the elements before sample number ``j`` (in order) run ``i``, of which ``a[i]`` samples come before it, holds
    more than ``(a[i] - 1) * spacing`` and at most ``a[i] * spacing``. All runs together hold at most ``j * spacing``,
    and at least ``(j - n) * spacing``.
    """
    n = len(sizes)
    before = np.bincount(ranked[: rank // spacing], minlength=n)
    first = np.where(before > 0, (before - 1) * spacing + 1, 0)
    j = -(-rank // spacing) + n
    stop = sizes if j >= len(ranked) else np.minimum(np.bincount(ranked[:j], minlength=n) * spacing, sizes)
    return first, stop


def cuts(rank: int, first: np.ndarray, values: Sequence[np.ndarray]) -> np.ndarray:
    """For each run how many of its elements are among the ``rank`` smallest, given what its window holds."""
    wanted = rank - int(first.sum())
    if wanted == sum(map(len, values)):
        return np.asarray(first + [len(v) for v in values])
    together = np.concatenate(values)
    if together.dtype.kind in "biufc":
        together.partition(wanted)
    else:
        together.sort()
    border = together[wanted]
    less = np.array([np.searchsorted(v, border, "left") for v in values])
    equal = np.array([np.searchsorted(v, border, "right") for v in values]) - less
    before = np.cumsum(equal) - equal  # of the elements that equal the border, those of earlier runs come first
    return np.asarray(first + less + np.clip(wanted - int(less.sum()) - before, 0, equal))


__all__ = ["cuts", "ranking", "spacing_for", "windows"]
