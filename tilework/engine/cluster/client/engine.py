"""The engine of clusters: a task graph is sent to the scheduler whole, and its outputs are futures.

Results of plans lie in shared memory that the client has allocated (:meth:`ClusterEngine.empty`): workers write their
blocks into it, and the user gets that memory as an ordinary array. So a block of a result is written once.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Any, Self

import numpy as np

from tilework.base.errors import PlanError, TileworkError
from tilework.engine.cluster.client.known import FINISHED, PENDING, State
from tilework.engine.cluster.client.link import Link
from tilework.engine.cluster.store import values
from tilework.engine.cluster.wire import messages
from tilework.engine.events import BatchFinished, Listener, RunEvent, RunFinished, RunStarted
from tilework.engine.local.budget import refuse
from tilework.engine.protocol import Receiver, RunOptions
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.protocols import Handle
from tilework.plan.stages import Calls

PATIENCE_SECONDS = 0.3  # how long Ctrl-C waits for tasks that run before it leaves them behind

FETCH_BYTES = 64 << 20
"""Values that are asked for in one go, where they are taken one after another, are up to so large together."""


class Block:
    """A handle: a block of a plan as a future. It is kept on the cluster as long as this object lives."""

    __slots__ = ("__weakref__", "_link", "_state")

    def __init__(self, link: Link, state: State) -> None:
        self._link, self._state = link, state

    def __del__(self) -> None:
        self._link.drop(self._state)

    def __reduce__(self) -> tuple[Any, ...]:
        return _met, (self.cluster, self.number)

    @property
    def number(self) -> int:
        """The future's number on its cluster."""
        return self._state.number

    @property
    def key(self) -> str:
        """Names the value."""
        return self._state.key

    @property
    def cluster(self) -> str:
        """The address of the cluster."""
        return self._link.welcome.address

    def result(self) -> Any:
        """Wait for the value, and return it. Raises what making it raised."""
        self._link.wait_done([self._state])
        if self._state.status != FINISHED:
            raise self._link.failure(self._state, "a block of a plan")
        return self._link.load([self._state])[0]

    def __repr__(self) -> str:
        return f"<Block {self.number:x} {self._state.status}>"


def _met(address: str, number: int) -> Block:
    """The handle where it is unpickled."""
    link = connected(address).link
    return Block(link, link.meet(number, "block"))


class ClusterEngine:
    """Runs plans on a cluster. Any thread may call any method.

    Parameters
    ----------
    link
        The connection to it.
    name
        For reports.
    """

    inline = values.INLINE

    def __init__(self, link: Link, name: str = "cluster") -> None:
        self.link, self.name = link, name

    def size(self) -> tuple[int, int]:
        """Tasks at a time, and bytes of memory: what the cluster has now."""
        info = self.link.request("info")
        return max(1, sum(worker["threads"] for worker in info["workers"].values())), info["memory"]

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """See :class:`~tilework.engine.protocol.RemoteEngine`."""
        return self.link.empty(shape, np.dtype(dtype))

    def run(
        self,
        graph: TaskGraph,
        options: RunOptions,
        listener: Listener | None = None,
        receive: Receiver | None = None,
    ) -> list[Any]:
        """See :class:`~tilework.engine.protocol.RemoteEngine`. Also once Ctrl-C has ended a run the cluster goes on."""
        refuse(graph, options.budget)
        found: list[Any] = []
        with _Run(self.link, graph, options, listener, self.name) as run:
            run.start()
            run.deliver(receive or (lambda k, value: found.append(value)))
        return found

    def submit(self, graph: TaskGraph, options: RunOptions) -> list[Block]:
        """See :class:`~tilework.engine.protocol.RemoteEngine`."""
        refuse(graph, options.budget, together=False)  # what stays on the cluster may go to disk there
        blocks = [Block(self.link, state) for state in self.link.reserve(len(graph.outputs) + 1, "block")]
        self.link.send(_message(self.link, graph, options, blocks[0].number, False))
        return blocks


_engines: dict[str, ClusterEngine] = {}
"""Of the clusters that this process has been connected to by their addresses."""

_connecting = Lock()


def connected(address: str) -> ClusterEngine:
    """The engine of the cluster at an address. The connection is kept.

    Raises
    ------
    ConnectionLostError
        If there is no such cluster.
    """
    with _connecting:
        engine = _engines.get(address)
        if engine is None or engine.link.broken is not None:
            engine = _engines[address] = ClusterEngine(Link.connect(address))
        return engine


class _Run:
    """One run of a graph that somebody waits for. A context manager: leaving it lets go of everything."""

    def __init__(
        self, link: Link, graph: TaskGraph, options: RunOptions, listener: Listener | None, engine: str
    ) -> None:
        self._link, self._graph, self._options, self._listener = link, graph, options, listener
        self._listening = Lock()
        self._failure: BaseException | None = None  # of the listener
        self._over = True  # nothing of it runs
        self._peak = self._spilled = 0
        self._left = deque(link.reserve(len(graph.outputs) + 1, "block"))  # not delivered; the last is of the whole
        self._first = self._left[0].number
        self._emit(RunStarted(graph, engine, options.workers, options.budget, monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for state in self._left:
            self._link.drop(state)
        self._left.clear()
        try:
            if error is None or self._link.broken is not None:
                self._link.watch(self._first, None)
            else:  # workers may still write to the results, whose memory is ours to keep until they have come to an end
                seconds = PATIENCE_SECONDS if isinstance(error, KeyboardInterrupt) else None
                with suppress(TileworkError):
                    self._link.wait(lambda: self._over, seconds)
        finally:
            peak = self._peak + self._graph.resident_bytes
            self._emit(RunFinished(monotonic(), peak, self._spilled, error))
            self._listener = None

    def start(self) -> None:
        """Send the graph."""
        message = _message(self._link, self._graph, self._options, self._first, self._listener is not None)
        self._over = False
        self._link.watch(self._first, self._watch)
        self._link.send(message)

    def deliver(self, receive: Receiver) -> None:
        """Hand over the outputs, in order, and wait for the end of all tasks."""
        left, k = self._left, 0
        while len(left) > 1:
            self._wait(left[0])
            for value in self._link.load(self._together()):
                receive(k, value)
                self._link.drop(left.popleft())
                k += 1
        self._wait(left[0])

    def _together(self) -> list[State]:
        """The next outputs that are there: some, since values are held while others of them are received."""
        found: list[State] = []
        size = 0
        for state in islice(self._left, len(self._left) - 1):
            size += state.size
            if state.status != FINISHED or (found and size > FETCH_BYTES):
                break
            found.append(state)
        return found

    def _wait(self, state: State) -> None:
        """Until this one is there. Raises what has ended the run as soon as anything has."""
        whole = self._left[-1]
        self._link.wait(lambda: state.status != PENDING or whole.status not in (PENDING, FINISHED) or self._failure)
        if self._failure is not None:
            raise self._failure
        for one in (whole, state):
            if one.status not in (PENDING, FINISHED):
                raise self._link.failure(one, "the computation")

    def _watch(self, message: messages.Progress | messages.Over) -> None:
        """Called by whoever reads."""
        if isinstance(message, messages.Over):
            self._over = True
            self._link.watch(self._first, None)
            return
        self._peak, self._spilled = max(self._peak, message.held), max(self._spilled, message.spilled)
        try:
            self._emit(BatchFinished(message.worker, tuple(message.tasks), *message[3:]))
        except BaseException as error:
            self._failure = error

    def _emit(self, event: RunEvent) -> None:
        with self._listening:
            if self._listener is not None:
                self._listener(event)


def _message(link: Link, graph: TaskGraph, options: RunOptions, first: int, watched: bool) -> messages.SubmitGraph:
    """What starts a graph."""
    held = {task: _number(handle, link) for task, handle in graph.held.items()}
    payload, _ = values.dump(_for_workers(graph), link.slot, copy=True)
    return messages.SubmitGraph(
        first,
        payload,
        _for_scheduler(graph),
        held,
        tuple(stage.label for stage in graph.stages),
        graph.resident_bytes,
        _scratch(graph),
        messages.TaskOptions(options.priority, options.retries, options.only),
        watched,
    )


def _number(handle: Handle, link: Link) -> int:
    if handle.cluster != link.welcome.address:
        raise PlanError(
            f"{handle.key} is on the cluster at {handle.cluster}, and cannot be used on the one at "
            f"{link.welcome.address}; compute() it first"
        )
    return handle.number


_NOTHING = np.zeros(0, np.int64)


def _for_workers(graph: TaskGraph) -> TaskGraph:
    """The graph without what only the scheduler needs."""
    return replace(graph, out_bytes=_NOTHING, work_bytes=_NOTHING, rank=_NOTHING, outputs=_NOTHING)


def _for_scheduler(graph: TaskGraph) -> dict[str, np.ndarray]:
    """The graph without what only workers need."""
    names = ("indptr", "deps", "out_bytes", "work_bytes", "rank", "outputs", "offsets")
    calls = np.array([isinstance(stage.work, Calls) for stage in graph.stages], bool)
    return {**{name: getattr(graph, name) for name in names}, "calls": calls}


def _scratch(graph: TaskGraph) -> dict[int, int]:
    """What tasks open on disk."""
    found: dict[int, int] = {}
    for s, stage in enumerate(graph.stages):
        if len(stage.scratch_bytes):
            kept = graph.kept[s] if graph.kept else None
            sizes = stage.scratch_bytes if kept is None else stage.scratch_bytes[kept]
            found |= dict(enumerate(sizes.tolist(), int(graph.offsets[s])))
    return found
