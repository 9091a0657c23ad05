"""The engine for arrays: NumPy lets go of the interpreter lock, so threads compute at the same time on shared blocks.

The caller's thread runs no tasks: it waits, so that Ctrl-C reaches it however long a task takes. Worker threads are
daemons, made for one run. (A pool of idle threads was measured: it saves about 0.1 ms a thread and run, and costs
threads that outlive the run, hold the caller's context and must survive a fork. Not worth it.)
"""

from __future__ import annotations

from contextvars import copy_context
from threading import Semaphore, Thread
from time import monotonic
from typing import Any

from tilework.engine.events import Listener
from tilework.engine.local import blas
from tilework.engine.local.loop import LocalRun
from tilework.engine.protocol import RunOptions
from tilework.engine.taskgraph import TaskGraph

PATIENCE_SECONDS = 0.3  # how long Ctrl-C waits for workers before it leaves them behind


class ThreadsEngine:
    """Runs ``options.workers`` tasks at a time, each worker in a copy of the caller's context, errstate included."""

    name = "threads"

    def run(self, graph: TaskGraph, options: RunOptions, listener: Listener | None = None) -> list[Any]:
        """See :class:`~tilework.engine.protocol.Engine`."""
        workers = min(options.workers, graph.n_tasks)
        with LocalRun(self.name, graph, options, max(workers, 1), listener) as run:
            if workers > 1:
                with blas.shared_by(workers):
                    _run_threads(run, workers)
            else:
                run.work(0)
            return run.results()


def _run_threads(run: LocalRun, workers: int) -> None:
    home = Semaphore(0)

    def body(worker: int) -> None:
        run.work(worker)
        home.release()

    threads = [
        Thread(target=copy_context().run, args=(body, worker), name=f"tilework-{worker}", daemon=True)
        for worker in range(workers)
    ]
    try:
        for thread in threads:
            thread.start()
        for _ in threads:
            home.acquire()  # not join(): interrupting that leaves a Thread that believes to be finished (CPython 3.11)
    except BaseException as error:
        run.abort(error)
        deadline = monotonic() + PATIENCE_SECONDS
        while any(thread.is_alive() for thread in threads) and monotonic() < deadline:
            home.acquire(timeout=deadline - monotonic())
        raise
    for thread in threads:
        thread.join()
