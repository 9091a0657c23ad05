"""How many workers a cluster should have, by the work that is left and the memory it takes. Pure: no clock of its own.

The *wish* at a moment is the least number of workers that

- would finish the work that is left within :data:`TARGET_SECONDS`, by what tasks of each kind took so far (of a kind
  that never ran a task counts :data:`UNKNOWN_SECONDS`): so a million tasks of a microsecond do not call for workers,
  and twenty tasks of a minute do;
- but no more than there are tasks to run at the same time;
- and together may hold what is held now at :data:`MEMORY_SHARE` of their memory.

More workers come at once. Fewer only if the wish was below the present number for :data:`PATIENCE_SECONDS`, and then
as many stay as the highest wish of that time: so a wish that swings does not make workers come and go.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil

TARGET_SECONDS = 1.0  # starting a worker takes about a tenth of it
UNKNOWN_SECONDS = 0.5
MEMORY_SHARE = 0.7
PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Load:
    """What there is to do.

    Attributes
    ----------
    seconds
        Estimated seconds of work left, of one thread.
    tasks
        Tasks that could run now: those that are ready, and those that run.
    held
        Bytes of blocks in memory and on disk.
    """

    seconds: float
    tasks: int
    held: int


class Adaptive:
    """Decides between ``minimum`` and ``maximum`` workers of ``threads`` threads and ``memory`` bytes each."""

    def __init__(self, minimum: int, maximum: int, threads: int, memory: int) -> None:
        self.minimum, self.maximum = minimum, maximum
        self._threads, self._memory = threads, memory
        self._wishes: deque[tuple[float, int]] = deque()  # (time, wish) of the last PATIENCE_SECONDS, wishes falling
        self._since: float | None = None  # when the present series of looks began

    def wish(self, load: Load) -> int:
        """Workers that the load calls for at this moment."""
        by_time = ceil(load.seconds / TARGET_SECONDS / self._threads)
        by_tasks = ceil(load.tasks / self._threads)
        by_memory = ceil(load.held / (self._memory * MEMORY_SHARE)) if load.tasks else 0
        busy = 1 if load.tasks else 0
        return min(max(min(by_time, by_tasks), by_memory, busy, self.minimum), self.maximum)

    def target(self, now: float, workers: int, load: Load) -> int:
        """How many workers there shall be. Ask once or twice a second."""
        wish = self.wish(load)
        wishes = self._wishes
        while wishes and wishes[-1][1] <= wish:
            wishes.pop()
        wishes.append((now, wish))
        while wishes[0][0] < now - PATIENCE_SECONDS:
            wishes.popleft()
        if self._since is None:
            self._since = now
        if wish >= workers:
            return wish
        if now - self._since < PATIENCE_SECONDS:
            return min(workers, self.maximum)
        return min(workers, max(wishes[0][1], self.minimum))
