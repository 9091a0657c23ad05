"""Drives the scheduler core with real workers, real blocks and a real clock.

Workers take turns at the scheduler under one lock; there is no scheduler thread, so no task waits for one to wake up.
A worker reports its batch, asks for the next and runs it, until it is told to stop. One that finds nothing to do sleeps
until another has reported. If a batch turns out to be slower than expected, tasks in it that were not started are
taken back after :data:`STEAL_SECONDS` and given to whoever is idle.

What is held where. ``_changed`` guards the scheduler and everything else with an underscore here, apart from
``_values``: workers write the blocks that they make, and read blocks that the scheduler knows to be finished, without
it. A block is dropped while the lock is held, *before* somebody else may be given its bytes.

How a run ends. Either the scheduler says STOP to all, or :meth:`LocalRun.abort` notes the first error, takes back all
that was not started and raises the flag that kernels poll between tiles. Either way workers come home by themselves;
one that is stuck in a long call may be left behind, and then finds that nobody wants its result.
"""

from __future__ import annotations

from collections import deque
from math import inf
from threading import Condition, Lock
from time import monotonic
from types import TracebackType
from typing import Any, Self

from tilework.engine.events import BatchFinished, Listener, RunEvent, RunFinished, RunStarted, TaskRetried
from tilework.engine.kernels import BufferPool, Context
from tilework.engine.local.budget import describe, refuse
from tilework.engine.local.execute import Executor, takes_buffers
from tilework.engine.local.heap import HeapTrimmer
from tilework.engine.local.spill import SpillFile
from tilework.engine.local.state import Scheduler
from tilework.engine.local.states import WAIT, Instruction, Run, Spill, Stop
from tilework.engine.protocol import RunOptions
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.stages import Calls

STEAL_SECONDS = 2e-3  # twice what a batch should take: before, the tasks would have been run where they are


class LocalRun:
    """One run of one graph by ``workers`` threads. A context manager: leaving it gives back memory and disk.

    Raises
    ------
    MemoryBudgetError
        If a task alone can never fit ``options.budget``.
    """

    def __init__(
        self, engine: str, graph: TaskGraph, options: RunOptions, workers: int, listener: Listener | None
    ) -> None:
        refuse(graph, options.budget)
        self._graph, self._options, self._workers = graph, options, workers
        self._listener, self._listener_lock = listener, Lock()
        self._scheduler = Scheduler(options.budget - graph.resident_bytes, workers)
        self._scheduler.add(graph)  # the only one: its tasks have the same numbers there
        self._changed = Condition()
        self._idle = 0  # workers that sleep ...
        self._watching = 0  # ... of which so many wake up by themselves, to take back tasks if a batch takes too long
        self._todo: list[deque[int]] = [deque() for _ in range(workers)]  # by worker: not started yet
        self._began = [0.0] * workers  # by worker: when it was given its batch
        self._error: BaseException | None = None
        self._values: dict[int, Any] = {}
        self._spill = SpillFile(options.spill_directory)
        self._pool = BufferPool(0)
        self._heap = HeapTrimmer(options.budget)
        self._pooled = [takes_buffers(stage) for stage in graph.stages]
        self._emit(RunStarted(graph, engine, workers, options.budget, monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort(error)
        self._spill.close()
        self._values.clear()
        self._pool.limit = 0  # results that the user drops later go back to the system
        self._pool.trim()
        peak = self._scheduler.peak + self._graph.resident_bytes
        self._emit(RunFinished(monotonic(), peak, self._scheduler.spilled_total, error))
        self._error = None  # its traceback leads back here

    def work(self, worker: int) -> None:
        """Run tasks until there are none, or the run is aborted. The body of each worker thread. Never raises ..."""
        try:
            executor = Executor(
                self._graph,
                self._scheduler.stage_of,
                self._values,
                Context(self._pool, self._workers, lambda: self._scheduler.stopped),
            )
            while True:
                with self._changed:
                    step = self._next(worker)
                if isinstance(step, Run):
                    self._run(worker, step, executor)
                elif isinstance(step, Spill):
                    self._write(worker, step.blocks)
                else:
                    return
        except BaseException as error:  # ... since a bug, or Ctrl-C, ends the run and not just this thread
            self.abort(error)
        finally:
            if self._scheduler.stopped:
                self._values.clear()  # what a worker that was left behind has brought home

    def abort(self, error: BaseException) -> None:
        """Stop as soon as possible. The first error is the one that counts."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._scheduler.stop()
            self._take_back()
            self._changed.notify_all()

    def results(self) -> list[Any]:
        """The blocks of ``graph.outputs``. Raises what ended the run, if it was aborted."""
        if self._error is not None:
            raise self._error
        outputs = self._graph.outputs.tolist()
        if self._scheduler.on_disk:
            for block in set(outputs) - self._values.keys():
                self._values[block] = self._spill.read(block)
        return [self._values[block] for block in outputs]

    # ------------------------------------------------------------ with the lock held

    def _next(self, worker: int) -> Instruction:
        """The next instruction for this worker, however long it takes."""
        while (step := self._scheduler.next(worker)) is WAIT:
            self._sleep()
        if isinstance(step, Run):
            self._todo[worker].extend(step.tasks)
            self._began[worker] = monotonic()
            self._limit_pool()
        if isinstance(step, Stop):
            self._changed.notify_all()
        elif self._idle and (self._scheduler.has_ready or (not self._watching and sum(map(len, self._todo)) > 1)):
            self._changed.notify()  # somebody can help, or at least watch
        return step

    def _sleep(self) -> None:
        """Until something has changed, or somebody's batch takes too long."""
        watch = any(self._todo)
        self._idle += 1
        self._watching += watch
        self._changed.wait(STEAL_SECONDS if watch else None)
        self._watching -= watch
        self._idle -= 1
        self._take_back(monotonic() - STEAL_SECONDS)

    def _take_back(self, since: float = inf) -> None:
        """Return to the scheduler what workers have not started, of batches that began before ``since``."""
        for worker, todo in enumerate(self._todo):
            n = 0
            while todo and self._began[worker] < since:
                try:
                    todo.pop()
                except IndexError:  # the worker was faster
                    break
                n += 1
            if n:
                self._scheduler.returned(worker, n)

    def _drop(self, blocks: list[int]) -> None:
        """Blocks that the scheduler does not count any more."""
        if blocks:
            self._limit_pool()
            for block in blocks:
                self._values.pop(block, None)

    def _limit_pool(self) -> None:
        """Let idle buffers fill what running tasks have reserved for the blocks they will take from the pool, and what
        was in use before.

        So they add nothing to the peak. Beyond the budget they never go, at the price of reusing less near it.
        """
        s = self._scheduler
        runs = [run for run in s.running.values() if run.tasks and self._pooled[s.stage_of[run.tasks[0]]]]
        blocks = sum([run.reserved - run.scratch for run in runs])
        limit = max(0, min(s.room, s.peak - s.held - s.reserved + blocks))
        self._pool.limit = limit
        if self._pool.idle_bytes > limit:
            self._pool.trim(limit)

    # ------------------------------------------------------------ without the lock

    def _run(self, worker: int, run: Run, executor: Executor) -> None:
        start = monotonic()
        sizes: list[int] = []
        error = self._load(worker, run.loads) if run.loads else None
        if error is None:
            error = executor.run(self._todo[worker], sizes, run.allowance)
        stop = monotonic()
        attempt = None
        with self._changed:
            if error is None:
                self._scheduler.returned(worker, len(self._todo[worker]))
                self._todo[worker].clear()
                self._scheduler.finished(worker, sizes, stop - start)
            else:
                self._todo[worker].clear()
                task = run.tasks[len(sizes)]
                retries = self._retries(task) if isinstance(error, Exception) else 0
                if self._scheduler.attempts.get(task, 0) >= retries:
                    self.abort(self._noted(error, task))  # first, so that nobody looks what needs the task
                attempt, _ = self._scheduler.failed(worker, sizes, stop - start, retries)
            self._drop(self._scheduler.take_freed())
            held, spilled = self._scheduler.held, self._scheduler.on_disk
        self._heap.look()
        if error is not None and attempt is not None:
            self._emit(TaskRetried(task, attempt, error))
        if self._listener is not None and sizes:
            self._emit(BatchFinished(worker, tuple(run.tasks), start, stop, held, spilled))

    def _load(self, worker: int, blocks: list[int]) -> BaseException | None:
        try:
            for block in blocks:
                self._heap.look()
                self._values[block] = self._spill.read(block)
        except BaseException as error:
            return error
        with self._changed:
            self._scheduler.loaded(worker)
        return None

    def _write(self, worker: int, blocks: list[int]) -> None:
        """Spill. The block stays where it is unless it is safely on disk."""
        for i, block in enumerate(blocks):
            try:
                written = self._spill.write(block, self._values[block])
            except BaseException as error:
                with self._changed:
                    self._scheduler.kept(worker, blocks[i:])
                self.abort(error)
                return
            with self._changed:
                if written:
                    self._scheduler.spilled(worker, [block])
                    self._drop([block])
                else:
                    self._scheduler.kept(worker, [block])
            self._heap.look()

    def _retries(self, task: int) -> int:
        _, stage, i = self._graph.locate(task)
        own = stage.work.calls[i].retries if isinstance(stage.work, Calls) else 0
        return max(own, self._options.retries)

    def _noted(self, error: BaseException, task: int) -> BaseException:
        """The error as the user shall see it: their own frames, and where in the plan it was."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None and _ours(trace):
            trace = trace.tb_next
        if isinstance(error, Exception):
            error.add_note(f"in {describe(self._graph, task)}")
        return error.with_traceback(trace)

    def _emit(self, event: RunEvent) -> None:
        if self._listener is not None:
            with self._listener_lock:
                self._listener(event)


def _ours(trace: TracebackType) -> bool:
    return str(trace.tb_frame.f_globals.get("__name__")).startswith("tilework.engine.")
