"""A worker process: takes batches of tasks, runs them, and stores what they give.

Its threads are all alike (see :mod:`~tilework.engine.cluster.workers.inbox`): each takes a batch, runs its tasks one
after another, and says what became of it. A value that only the batch itself needs stays an object. All others go into
the arena as soon as they are made, so that their memory on the heap can be used again at once; a later task of the
batch reads them there.

Nothing that a task raises ends the worker, SystemExit included. What ends the process is for the scheduler to notice.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import pickle
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from socket import socket
from threading import Lock, Thread
from time import monotonic
from typing import Any, NamedTuple

import numpy as np

from tilework.base import config
from tilework.base.errors import InternalError, StorageError
from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import BOARD_THREADS, Arena, Slot
from tilework.engine.cluster.wire.channel import Channel
from tilework.engine.cluster.wire.messages import (
    Batch,
    Blocked,
    BlockTask,
    CallTask,
    Failed,
    Finished,
    Forget,
    Forgotten,
    Free,
    Function,
    GiveBack,
    Graph,
    Leave,
    Loaded,
    Log,
    OnDisk,
    Ran,
    Ready,
    Returned,
    RunOnWorker,
    SpillBlocks,
    Spilled,
    Stored,
    Unviewed,
)
from tilework.engine.cluster.workers.inbox import Inbox, Outbox
from tilework.engine.cluster.workers.inputs import Inputs
from tilework.engine.cluster.workers.work import GraphValues, KnownFunction, KnownGraph, Work
from tilework.engine.kernels import Context
from tilework.engine.local.budget import describe
from tilework.engine.local.execute import Executor
from tilework.engine.local.heap import HeapTrimmer
from tilework.engine.local.sizeof import sizeof

WARM_SHARE = 8
"""1 / this of a worker's memory may lie idle in its slot, to be used again."""


class Order(NamedTuple):
    """What a worker should be: its number, its slot, how many threads, and where the scheduler listens for clients."""

    number: int
    slot: int
    threads: int
    address: str
    secret: bytes


def main(sock: socket, order: Order, arena: Arena, memory_limit: int) -> None:
    """Body of a worker process, until it is told to leave."""
    faulthandler.enable(2)  # where in Python it was when compiled code crashes
    if "numpy.random" in sys.modules:
        np.random.seed()  # all workers have inherited the same state; Python's own `random` sees to itself
    config.set(scheduler="sync")
    worker = Worker(Channel(sock), order, arena, memory_limit)
    _relay_warnings(worker.outbox)
    worker.run()


# ---------------------------------------------------------------- for tasks


class _Here(threading.local):
    """What runs in this thread."""

    worker: Worker | None = None
    task: int | None = None
    work: Work | None = None
    seceded: bool = False  # whether the task has said that it computes nothing


_here = _Here()


class Current(NamedTuple):
    """The task that asks, and how it can reach the scheduler as a client."""

    worker: int
    task: int | None
    address: str
    secret: bytes


_process: Worker | None = None


def current() -> Current | None:
    """The task that runs in this thread; None if this is no worker process.

    In a thread that the task has started, the worker alone is known.
    """
    if _process is None:
        return None
    order = _process.order
    return Current(order.number, _here.task, order.address, order.secret)


@contextmanager
def waiting() -> Iterator[None]:
    """Around what waits for other tasks: meanwhile the worker may run one more batch. Does nothing elsewhere.

    What stands behind this task in its batch is given back, since the task may be waiting for it.
    """
    worker = _here.worker
    if worker is None or _process is None or _here.seceded:
        yield
        return
    worker.block(_here.work)
    try:
        yield
    finally:
        worker.unblock()


def secede() -> None:
    """As if the task waited from now on, until ``rejoin`` or its end."""
    if _here.worker is not None and not _here.seceded:
        _here.seceded = True
        _here.worker.block(_here.work)


def rejoin() -> None:
    """End what ``secede`` began, if it did."""
    if _here.worker is not None and _here.seceded:
        _here.seceded = False
        _here.worker.unblock()


# ---------------------------------------------------------------- the process


class Worker:
    """What the threads of a worker share.

    Parameters
    ----------
    channel
        The connection to the scheduler.
    order
        What it should be.
    arena
        The shared memory; ``arena.spill`` is the spill file.
    memory_limit
        Bytes of memory that this process may have.
    """

    def __init__(self, channel: Channel, order: Order, arena: Arena, memory_limit: int) -> None:
        self.order, self.arena = order, arena
        self.slot = Slot(arena, order.slot, memory_limit // WARM_SHARE)
        self.inputs = Inputs(arena)
        self.outbox = Outbox(channel)
        self.inbox: Inbox[Work | SpillBlocks] = Inbox(channel, self._hear, self._rest)
        self.heap = HeapTrimmer(memory_limit)
        self.functions: dict[int, KnownFunction] = {}
        self.graphs: dict[int, KnownGraph] = {}
        self.lock = Lock()  # for what follows
        self.works: dict[int, Work] = {}  # by number of the batch: what has not been reported
        self._threads: dict[int, Thread | None] = {0: None}  # by number on the board; None is the main thread
        self._blocked = 0  # how many of them wait for other tasks

    def run(self) -> None:
        """Until the scheduler says that we should leave."""
        global _process
        _process = self
        with self.lock:
            for _ in range(1, self.order.threads):
                self._add_thread()
        Thread(target=self.inbox.watch, name="tilework-watcher", daemon=True).start()
        self.outbox.post(Ready(os.getpid()))
        _Runner(self, 0).run()
        with self.lock:
            threads = [thread for thread in self._threads.values() if thread is not None]
        for thread in threads:
            thread.join()

    # ------------------------------------------------------------ threads

    def _add_thread(self) -> None:
        number = next(n for n in count() if n not in self._threads)
        thread = Thread(target=_Runner(self, number).run, name=f"tilework-{number}", daemon=True)
        self._threads[number] = thread
        thread.start()

    def retires(self, number: int) -> bool:
        """Whether a thread is one too many, since those that waited go on. If so it must end."""
        with self.lock:
            if number == 0 or len(self._threads) - self._blocked <= self.order.threads:
                return False
            del self._threads[number]
            return True

    def block(self, work: Work | None) -> None:
        """A task begins to wait for others."""
        with self.lock:
            if work is not None and work.left:
                self.give_back(work)
            self._blocked += 1
            if len(self._threads) - self._blocked < self.order.threads:
                self._add_thread()
            self.outbox.post(Blocked(1))

    def unblock(self) -> None:
        """It waits no more."""
        with self.lock:
            self._blocked -= 1
            self.outbox.post(Blocked(-1))

    # ------------------------------------------------------------ what the scheduler says

    def _hear(self, message: Any) -> Work | SpillBlocks | None:
        kind = type(message)
        if kind is Batch:
            work = self.works[message.number] = Work(message, self.inputs)
            return work
        if kind is Free:
            self.slot.free(message.extents)
        elif kind is Function:
            self.functions[message.number] = KnownFunction(message)
        elif kind is Graph:
            gone = partial(self.outbox.post, Forgotten(message.number))
            self.graphs[message.number] = KnownGraph(message, gone)
        elif kind is GiveBack:
            self._give_back(message.batches)
        elif kind is SpillBlocks:
            return message
        elif kind is Forget:
            self._forget(message)
        elif kind is RunOnWorker:
            Thread(target=self._run_aside, args=(message,), name="tilework-aside", daemon=True).start()
        elif kind is Leave:
            self._give_back(tuple(self.works))
            self.inbox.closed = True
        else:
            raise InternalError(f"a worker was sent {message!r}")
        return None

    def _give_back(self, batches: tuple[int, ...]) -> None:
        with self.lock:
            for number in batches:
                work = self.works.get(number)
                if work is None:
                    self.outbox.post(Returned(number, 0))
                else:
                    self.give_back(work)

    def give_back(self, work: Work) -> None:
        """Give back what is not started. With the lock, so that it is said before the batch is reported."""
        n = 0
        while work.left:
            try:
                work.left.pop()
            except IndexError:  # its thread was faster
                break
            n += 1
        self.outbox.post(Returned(work.batch.number, n))

    def _forget(self, message: Forget) -> None:
        for number in message.functions:
            self.functions.pop(number, None)
        for number in message.graphs:
            self.graphs.pop(number).forget()

    def _run_aside(self, message: RunOnWorker) -> None:
        try:
            # Copied, for what it sets up may stay here, and its memory will not.
            value, _ = values.dump(values.load_copy(message.blob, self.arena)(), self.slot)
        except BaseException as error:  # the user's, SystemExit included
            self.outbox.post(Ran(message.request, None, values.dump_error(error)))
        else:
            self.outbox.post(Ran(message.request, value, None))
        self.say_unviewed()

    # ------------------------------------------------------------ memory

    def say_unviewed(self) -> None:
        blocks = self.inputs.unviewed()
        if blocks:
            self.outbox.post(Unviewed(blocks))

    def _rest(self) -> None:
        """Give back what is kept to save time."""
        if self.works:  # another thread is busy
            return
        self.inputs.clear()
        if self.inputs.in_view:
            gc.collect()  # it may be cycles that look at it, those of errors for example
        self.slot.trim()
        self.heap.trim()
        self.say_unviewed()


class _Runner:
    """A thread that runs batches.

    Parameters
    ----------
    number
        Its place on the board. Tasks of threads that have none cannot be blamed if the process dies: there are such if
        more than 60 tasks of a worker wait for others.
    """

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker, self._number = worker, number
        self._arena, self._slot, self._inputs = worker.arena, worker.slot, worker.inputs
        self._mark: Callable[[int], None] = (
            partial(self._arena.mark, worker.order.slot, number) if number < BOARD_THREADS else lambda task: None
        )

    def run(self) -> None:
        """Body of the thread."""
        _here.worker = self._worker
        try:
            while (work := self._worker.inbox.take()) is not None:
                if isinstance(work, SpillBlocks):
                    self._spill(work)
                else:
                    self._run(work)
                del work
                if self._worker.retires(self._number):
                    return
        except BaseException:  # a bug of ours
            traceback.print_exc()
            os._exit(1)

    def _run(self, work: Work) -> None:
        start = monotonic()
        _here.work = work
        error = None
        try:
            self._read_back(work)
            self._tasks(work)
        except BaseException as raised:  # whatever a task raises, SystemExit included
            error = values.dump_error(raised)
        self._mark(-1)
        rejoin()
        _here.task = _here.work = None
        self._report(work, start, error)
        self._worker.heap.look()

    def _read_back(self, work: Work) -> None:
        """What lies on disk, before anything else."""
        places = work.batch.inputs
        loaded = {
            block: values.read_spill(self._arena.spill, value, self._slot)
            for block, value in places.items()
            if type(value) is OnDisk
        }
        if not loaded:
            return
        with self._worker.lock:
            if work.left:
                places.update(loaded)
                self._worker.outbox.post(Loaded(work.batch.number, loaded))
            else:  # all of it was given back meanwhile, and nobody waits for this
                self._slot.free(offset for value in loaded.values() for offset, _ in value.extents)
        for value in loaded.values():
            work.lend(value)

    def _tasks(self, work: Work) -> None:
        """Run what is left, until the results weigh too much."""
        batch, take, mark = work.batch, work.left.popleft, self._mark
        allowance = batch.allowance
        while allowance >= 0:
            try:
                position = take()
            except IndexError:
                return
            task, todo = batch.tasks[position], batch.work[position]
            mark(task)
            _here.task = task
            value = self._call(work, task, todo) if isinstance(todo, CallTask) else self._block(work, todo)
            uses = work.uses.get(task)
            if uses is None:
                size = self._store(work, task, value)
            else:
                if uses:
                    work.values[task] = value
                work.results.append(None)
                size = sizeof(value)
            del value
            work.sizes.append(size)
            allowance -= size
            if work.uses:
                self._used(work, todo)

    def _call(self, work: Work, task: int, todo: CallTask) -> Any:
        function = self._worker.functions[todo.function]
        call = function.call or function.load(self._arena)
        packed = todo.args
        args, kwargs = pickle.loads(packed) if type(packed) is bytes else self._inputs.load(~task, packed)
        if todo.inputs:
            found = [work.values[block] for block in todo.inputs]
            args, kwargs = values.fill(args, found), values.fill(kwargs, found)
        return call(*args, **kwargs)

    def _block(self, work: Work, todo: BlockTask) -> Any:
        if todo.scratch is not None:
            return values.load(todo.scratch, self._arena)
        graph = self._worker.graphs[todo.graph]
        executor, blocks = graph.executors.get(self) or self._executor(graph)
        blocks.batch = work.values
        try:
            error = executor.run(deque((todo.task,)), [], 0)
            if error is None:
                return blocks.pop(todo.task)
            if isinstance(error, Exception):
                error.add_note(f"in {describe(graph.load(self._arena), todo.task)}")
            raise error
        finally:
            blocks.batch = {}

    def _executor(self, graph: KnownGraph) -> tuple[Executor, GraphValues]:
        tasks, blocks = graph.load(self._arena), GraphValues(graph)
        context = Context(self._slot, self._worker.order.threads, lambda: graph.forgotten)
        found = graph.executors[self] = Executor(tasks, graph.stage_of, blocks, context), blocks
        return found

    def _store(self, work: Work, task: int, value: Any) -> int:
        """Make a value ready to travel. If a later task of this batch needs it, that reads it like any other."""
        result, size = values.dump(value, self._slot, work.lent)
        if len(work.batch.tasks) > 1:
            work.lend(result)
            work.batch.inputs[task] = result
        work.results.append(result)
        return size

    def _used(self, work: Work, todo: CallTask | BlockTask) -> None:
        """A task has run: drop the inner values that no other one needs."""
        if isinstance(todo, CallTask):
            needed = set(todo.inputs)
        else:
            needed = self._worker.graphs[todo.graph].inputs(todo.task, self._arena)
        for block in needed & work.uses.keys():
            work.uses[block] -= 1
            if not work.uses[block]:
                del work.values[block]

    # ------------------------------------------------------------ the end of a batch

    def _report(self, work: Work, start: float, error: bytes | None) -> None:
        worker, batch = self._worker, work.batch
        with worker.lock:  # nobody takes anything back from here on
            del worker.works[batch.number]
            if work.left and error is None:
                worker.give_back(work)
        if work.uses:
            error = self._keep_inner(work) or error
        work.values.clear()
        viewed = self._inputs.viewed({*batch.inputs, *(~task for task in batch.tasks)}) if self._inputs.in_view else ()
        stop = monotonic()
        if error is not None:
            worker.outbox.post(Failed(batch.number, work.results, work.sizes, start, stop, error, viewed))
        elif work.results:
            worker.outbox.post(Finished(batch.number, work.results, work.sizes, start, stop, viewed))
        worker.say_unviewed()

    def _keep_inner(self, work: Work) -> bytes | None:
        """Store the inner values that are needed after all, since not all tasks that use them have run."""
        for position, task in enumerate(work.batch.tasks[: len(work.results)]):
            if work.uses.get(task):
                try:
                    work.results[position], work.sizes[position] = values.dump(work.values[task], self._slot, work.lent)
                except Exception as error:  # as if it had failed then
                    for result in work.results[position:]:
                        if type(result) is Stored:
                            self._slot.free(offset for offset, _ in result.extents)
                    del work.results[position:], work.sizes[position:]
                    return values.dump_error(error)
        return None

    def _spill(self, message: SpillBlocks) -> None:
        done: list[tuple[int, OnDisk]] = []
        problem = None
        try:
            for task, value, offset in message.blocks:
                done.append((task, values.write_spill(self._arena, self._arena.spill, value, offset)))
        except StorageError as error:
            problem = str(error)
        kept = [task for task, _, _ in message.blocks[len(done) :]]
        self._worker.outbox.post(Spilled(done, kept, problem))


# ---------------------------------------------------------------- logging


def _relay_warnings(outbox: Outbox) -> None:
    """Warnings, and what is logged at that level and above, goes to the scheduler besides where it goes anyway.

    Records are caught where they are made: a handler would change what ``logging.basicConfig`` does for the user.
    """
    make, show = logging.getLogRecordFactory(), warnings.showwarning
    style = logging.Formatter("%(name)s: %(message)s")

    def relayed(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.levelno >= logging.WARNING:
            try:
                text = style.format(record)
            except Exception:  # arguments that do not fit; logging itself will complain
                text = f"{record.name}: {record.msg}"
            outbox.post(Log(record.levelno, text))
        return record

    def shown(
        message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: str | None = None
    ) -> None:
        show(message, category, filename, lineno, file, line)
        outbox.post(Log(logging.WARNING, warnings.formatwarning(message, category, filename, lineno, line).rstrip()))

    logging.setLogRecordFactory(relayed)
    warnings.showwarning = shown
