"""What goes to disk when memory is short: the blocks that are needed last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tilework.engine.local.queue import NONE
from tilework.engine.local.states import HELD

if TYPE_CHECKING:
    from tilework.engine.local.state import Scheduler

SPILL_SHARE = 32  # spill at least this fraction of the budget at once: finding victims is O(all blocks)


def victims(s: Scheduler, need: int, inputs: Sequence[int]) -> list[int]:
    """Held blocks to spill so that a task that needs so much fits, those needed last first.

    Its own ``inputs`` are not among them, nor are those of running tasks. Enough is spilled for all idle workers to go
    on at once with tasks of that kind.
    """
    goal = max(need * max(1, s.workers - len(s.running)) - s.room, s.limit // SPILL_SHARE)
    n = len(s.states)
    states, sizes = np.frombuffer(s.states, np.uint8), np.asarray(s.sizes)[:n]
    usable = (states == HELD) & (sizes > 0)
    usable[list(inputs)] = False
    usable[list(s.pins)] = False
    usable[list(s.unwritable)] = False
    for run in s.running.values():
        for task in run.tasks:
            usable[s.inputs(task)] = False
    blocks = np.flatnonzero(usable)
    blocks = blocks[np.argsort(-next_use(s, states, blocks), kind="stable")]
    enough = int(np.searchsorted(np.cumsum(sizes[blocks]), goal)) + 1
    return blocks[:enough].tolist()


def next_use(s: Scheduler, states: np.ndarray, blocks: np.ndarray) -> np.ndarray:
    """For each block the rank of its first unfinished user; NONE if it is only held."""
    indptr, users, ranks = np.asarray(s.users_indptr), np.asarray(s.users), np.asarray(s.queue.ranks)
    first, count = indptr[blocks], indptr[blocks + 1] - indptr[blocks]
    ends = np.cumsum(count)
    edges = users[np.repeat(first - ends + count, count) + np.arange(ends[-1] if len(ends) else 0)]
    out = np.full(len(blocks), NONE, np.int64)
    np.minimum.at(out, np.repeat(np.arange(len(blocks)), count), np.where(states[edges] < HELD, ranks[edges], NONE))
    if s.later:
        for i, block in enumerate(blocks.tolist()):
            later = np.array(s.later.get(block, []), np.int64)
            out[i] = min(out[i], ranks[later[states[later] < HELD]].min(initial=NONE))
    return out
