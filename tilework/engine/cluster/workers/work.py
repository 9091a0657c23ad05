"""What a worker has been told to do: functions and graphs that it knows, and batches with how far they have come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Arena
from tilework.engine.cluster.wire.messages import Batch, Function, Graph, Stored, Value
from tilework.engine.cluster.workers.inputs import Inputs
from tilework.engine.kernels.context import Cancelled
from tilework.engine.local.execute import Executor
from tilework.engine.taskgraph import TaskGraph


class KnownFunction:
    """A user's function, unpickled when it is first called.

    Large arrays in it are copied: it may keep them somewhere, or change them, and then be forgotten.
    """

    __slots__ = ("_blob", "_lock", "_name", "call")

    def __init__(self, message: Function) -> None:
        self._blob, self._name = message.blob, message.name
        self._lock = Lock()
        self.call: Callable[..., Any] | None = None

    def load(self, arena: Arena) -> Callable[..., Any]:
        with self._lock:
            if self.call is None:
                with _unpickling(f"function {self._name!r}"):
                    self.call = values.load_copy(self._blob, arena)
            return self.call


class KnownGraph:
    """A task graph, unpickled when its first task runs. Its arrays are views, which user code may keep.

    Parameters
    ----------
    message
        What the scheduler says of it.
    gone
        Called once it is forgotten and nobody looks at its memory any more; by any thread.
    """

    def __init__(self, message: Graph, gone: Callable[[], None]) -> None:
        self._payload, self._base, self._held = message.payload, message.base, message.held
        self._gone = gone
        self._missing = [None]  # one of two conditions; who finds it empty is the second. To pop is atomic
        self._lock = Lock()
        self._tasks: TaskGraph | Exception | None = None  # or why there is none: it is unpickled once
        self.stage_of = memoryview(b"")
        self.forgotten = False  # polled by kernels between tiles
        self.executors: dict[Any, tuple[Executor, GraphValues]] = {}

    def load(self, arena: Arena) -> TaskGraph:
        with self._lock:
            if self.forgotten:
                raise Cancelled
            if self._tasks is None:
                try:
                    with _unpickling("the plan"):
                        graph: TaskGraph = values.load(self._payload, arena, self._condition)
                except Exception as error:
                    self._tasks = error
                else:
                    stages = np.arange(len(graph.stages), dtype=np.int32)
                    self.stage_of = np.repeat(stages, np.diff(graph.offsets)).data
                    self._tasks = graph
            if isinstance(self._tasks, Exception):
                raise self._tasks
            return self._tasks

    def forget(self) -> None:
        """The scheduler will not ask for tasks of it any more."""
        with self._lock:
            self.forgotten = True
            unpickled, self._tasks = self._tasks is not None, None
        self.executors.clear()
        if not unpickled:
            self._condition()
        self._condition()

    def _condition(self) -> None:
        """It is forgotten, or nobody looks at it. Tells if the other one has come true as well."""
        try:
            self._missing.pop()
        except IndexError:
            self._gone()

    def block(self, task: int) -> int:
        """The scheduler's number of a task of this graph."""
        return self._held[task] if task in self._held else self._base + task

    def inputs(self, task: int, arena: Arena) -> set[int]:
        """The blocks that a task needs."""
        graph = self.load(arena)
        needed = graph.deps[graph.indptr[task] : graph.indptr[task + 1]].tolist()
        return set(map(self.block, needed))


@contextmanager
def _unpickling(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        error.add_note(
            f"while {what} was unpickled on a worker, which has the import path and the directory with which the "
            "cluster was started"
        )
        raise


class _Values(dict[int, Any]):
    """Objects of a batch by block: what it needs, loaded when it is asked for, and its own inner values."""

    def __init__(self, batch: Batch, inputs: Inputs) -> None:
        self._places, self._inputs = batch.inputs, inputs

    def __missing__(self, block: int) -> Any:
        value = self[block] = self._inputs.load(block, self._places[block])
        return value


class GraphValues(dict[int, Any]):
    """The same by task of a graph. Empty but for the task that has just run: the executor puts it there."""

    def __init__(self, graph: KnownGraph) -> None:
        self._graph = graph
        self.batch: dict[int, Any] = {}

    def __missing__(self, task: int) -> Any:
        return self.batch[self._graph.block(task)]


class Work:
    """A batch, and how far it has come.

    Attributes
    ----------
    left
        Positions of the tasks that are not started. Its thread takes from the left; whoever hears that they are wanted
        back takes from the right.
    results, sizes
        Of those that are done. None for inner values, unless it turns out that they are needed.
    lent
        Extents that the scheduler keeps until it has heard of the end of this batch.
    """

    __slots__ = ("batch", "left", "lent", "results", "sizes", "uses", "values")

    def __init__(self, batch: Batch, inputs: Inputs) -> None:
        self.batch = batch
        self.left = deque(range(len(batch.tasks)))
        self.values = _Values(batch, inputs)
        self.results: list[Value | None] = []
        self.sizes: list[int] = []
        self.uses = dict(batch.inner)  # of inner values, still to come
        self.lent: list[tuple[int, int]] = []
        for value in batch.inputs.values():
            self.lend(value)

    def lend(self, value: Value) -> None:
        if type(value) is Stored:
            self.lent.extend(value.extents)
            self.lent.extend(value.borrowed)
