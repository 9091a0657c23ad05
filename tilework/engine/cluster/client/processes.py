"""``scheduler="processes"``: a cluster of this process's own, without a client.

It is started at first use, since that takes a moment, and kept warm: the next computation with the same settings finds
it running. It ends when nothing has used it for :data:`IDLE_SECONDS`, when a computation with other settings comes, and
with this process.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Timer
from time import monotonic
from typing import Any
from weakref import WeakSet

import numpy as np

from tilework.base import machine
from tilework.engine.cluster.client.engine import Block, ClusterEngine
from tilework.engine.cluster.client.link import Link
from tilework.engine.cluster.start.launch import ClusterConfig, Launched, launch
from tilework.engine.events import Listener
from tilework.engine.local.budget import refuse
from tilework.engine.protocol import Receiver, RunOptions
from tilework.engine.taskgraph import TaskGraph

IDLE_SECONDS = 30.0


class ProcessesEngine:
    """Runs plans on worker processes of its own, one task at a time each. Any thread may call any method.

    Parameters
    ----------
    workers
        How many.
    memory
        Bytes that blocks, scratch and results may take together.
    spill_directory
        Where blocks go when nothing fits.
    """

    name = "processes"
    inline = ClusterEngine.inline

    def __init__(self, workers: int, memory: int, spill_directory: str | None = None) -> None:
        self._workers, self._memory, self._spill_directory = workers, memory, spill_directory
        self._lock = Lock()  # for what follows
        self._launched: Launched | None = None
        self._engine: ClusterEngine | None = None
        self._users = 0
        self._handles: WeakSet[Block] = WeakSet()
        self._last_used = 0.0
        self._timer: Timer | None = None

    def size(self) -> tuple[int, int]:
        """Tasks at a time, and bytes of memory. Starts nothing."""
        return self._workers, self._memory

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """See :class:`~tilework.engine.protocol.RemoteEngine`. What it gives stays when the cluster ends."""
        with self._used() as engine:
            return engine.empty(shape, dtype)

    def run(
        self,
        graph: TaskGraph,
        options: RunOptions,
        listener: Listener | None = None,
        receive: Receiver | None = None,
    ) -> list[Any]:
        """See :class:`~tilework.engine.protocol.RemoteEngine`."""
        refuse(graph, options.budget)  # before anything is started
        with self._used() as engine:
            return engine.run(graph, options, listener, receive)

    def submit(self, graph: TaskGraph, options: RunOptions) -> list[Block]:
        """See :class:`~tilework.engine.protocol.RemoteEngine`. The cluster stays until nobody has these handles."""
        refuse(graph, options.budget)
        with self._used() as engine:
            handles = engine.submit(graph, options)
            self._handles.update(handles)
            return handles

    def close(self) -> None:
        """End the cluster, if there is one."""
        with self._lock:
            self._end()

    # ------------------------------------------------------------ starting and ending

    @contextmanager
    def _used(self) -> Iterator[ClusterEngine]:
        """The engine of the cluster, which stays at least until the end."""
        with self._lock:
            if self._engine is None or self._engine.link.broken is not None:
                self._start()
            self._users += 1
            engine = self._engine
        assert engine is not None
        try:
            yield engine
        finally:
            self._last_used = monotonic()
            with self._lock:
                self._users -= 1
                if self._timer is None:
                    self._look_later(IDLE_SECONDS)

    def _start(self) -> None:
        self._end()
        for other in list(_engines.values()):
            if other is not self:
                other._end_if_unused()
        self._launched = launch(
            ClusterConfig(
                self._workers, 1, machine.memory_total(), self._memory, self._spill_directory,
                dashboard_port=None, name=self.name,
            )
        )  # fmt: skip
        link = Link.connect(self._launched.address, secret=self._launched.secret)
        self._engine = ClusterEngine(link, self.name)

    def _end(self) -> None:
        if self._engine is not None:
            self._engine.link.close()
        if self._launched is not None:
            self._launched.close()
        self._engine = self._launched = None

    def _end_if_unused(self) -> None:
        if not self._users and not self._handles and self._lock.acquire(blocking=False):
            try:
                if not self._users:
                    self._end()
            finally:
                self._lock.release()

    def _look_later(self, seconds: float) -> None:
        self._timer = Timer(seconds, self._look)
        self._timer.name, self._timer.daemon = "tilework-idle", True
        self._timer.start()

    def _look(self) -> None:
        """Whether it has been idle for long enough. In the timer's thread."""
        with self._lock:
            self._timer = None
            idle = 0.0 if self._users or self._handles else monotonic() - self._last_used
            if self._engine is not None and idle < IDLE_SECONDS:
                self._look_later(IDLE_SECONDS - idle)
            else:
                self._end()

    def forget(self) -> None:
        """After a fork, in the child: the cluster is the parent's, and shall end with it."""
        if self._launched is not None and self._launched.lifeline is not None:
            self._launched.lifeline.close()
        self.__init__(self._workers, self._memory, self._spill_directory)  # type: ignore[misc]


_engines: dict[tuple[int, int, str | None], ProcessesEngine] = {}


def processes(workers: int, memory: int, spill_directory: str | None = None) -> ProcessesEngine:
    """The engine for these settings: always the same one."""
    return _engines.setdefault((workers, memory, spill_directory), ProcessesEngine(workers, memory, spill_directory))


@atexit.register
def close() -> None:
    """End all clusters that :func:`processes` has started."""
    for engine in _engines.values():
        engine.close()


def _forget() -> None:
    for engine in _engines.values():
        engine.forget()


os.register_at_fork(after_in_child=_forget)
