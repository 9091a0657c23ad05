"""The values that a worker's tasks take, as objects; and who still looks at their memory."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from functools import partial
from threading import Lock
from typing import Any

from tilework.engine.cluster.store.arena import Arena
from tilework.engine.cluster.store.values import load
from tilework.engine.cluster.wire.messages import Stored, Value

CACHED = 16
"""Objects that are kept for the next task that takes them, ..."""

CACHE_HEAD = 4 << 10
"""... if their pickle is larger than this, without arrays: the others are read as fast as they are found."""


class Inputs:
    """Loads values. Any thread may call any method.

    Views on the arena are counted by block, from the moment they are made until the last is garbage. The scheduler is
    told when a batch has ended and its inputs are still looked at, by a user's global or by the cache here.
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._cache: OrderedDict[int, Any] = OrderedDict()  # by block, the one used last at the end
        self._views: Counter[int] = Counter()  # by block
        self._gone: deque[int] = deque()  # of views that are garbage: appended by whoever collects it
        self._reported: set[int] = set()  # blocks that the scheduler believes to be looked at
        self._lock = Lock()

    def load(self, block: int, value: Value) -> Any:
        """The object. Its arrays are read-only views. ``~task`` is the block number of a task's arguments."""
        if block < 0 or _head_size(value) <= CACHE_HEAD:
            return self._load(block, value)
        with self._lock:
            if block in self._cache:
                self._cache.move_to_end(block)
                return self._cache[block]
        item = self._load(block, value)
        dropped = None
        with self._lock:
            self._cache[block] = item
            if len(self._cache) > CACHED:
                dropped = self._cache.popitem(last=False)
        del dropped  # without the lock, since this may run the user's code
        return item

    @property
    def in_view(self) -> bool:
        """Whether there is anything in view."""
        return bool(self._views)

    def clear(self) -> None:
        """Forget all objects."""
        with self._lock:
            dropped, self._cache = self._cache, OrderedDict()
        dropped.clear()

    def viewed(self, blocks: Iterable[int]) -> tuple[int, ...]:
        """Which of these are still looked at. The scheduler is told."""
        with self._lock:
            self._settle()
            found = tuple(block for block in blocks if self._views[block] > 0)
            self._reported.update(found)
        return found

    def unviewed(self) -> tuple[int, ...]:
        """Which are not looked at any more, of those of which the scheduler was told. It is told this, too."""
        if not self._reported:
            return ()
        with self._lock:
            self._settle()
            found = tuple(block for block in self._reported if self._views[block] <= 0)
            self._reported.difference_update(found)
        return found

    def _load(self, block: int, value: Value) -> Any:
        if type(value) is not Stored or not value.parts:
            return load(value, self._arena)
        with self._lock:
            self._views[block] += 1
        return load(value, self._arena, partial(self._gone.append, block))  # also called if this raises

    def _settle(self) -> None:
        while self._gone:
            block = self._gone.popleft()
            self._views[block] -= 1
            if not self._views[block]:
                del self._views[block]


def _head_size(value: Value) -> int:
    if type(value) is bytes:
        return len(value)
    if type(value) is Stored:
        return len(value.head) if isinstance(value.head, bytes) else value.head[1]
    return 0
