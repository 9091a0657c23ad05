"""What clients, the scheduler and workers say to each other: named tuples of plain data, one class a kind of message.

Messages are pickled, but only between processes that have proved who they are, and they hold nothing of the user's
other than as bytes: functions, arguments, results and errors are pickled before they are put into a message, and only
workers and clients take them out. So whatever a user's object does when it is unpickled, the scheduler does not see it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

# ---------------------------------------------------------------- values


class Stored(NamedTuple):
    """A value in the arena.

    Attributes
    ----------
    head
        The pickle, or where it lies in the arena if it is large.
    parts
        Offset in the arena and size of each of its buffers.
    extents
        Offset and size of what was allocated for it. Freed with it, once nobody borrows it any more.
    borrowed
        The extents of other values in which some of ``parts`` lie.
    shared
        Numbers of the parts that are memory which whoever dumped it keeps, and which may be written to: the array that
        is the result of a plan.
    """

    head: bytes | tuple[int, int]
    parts: tuple[tuple[int, int], ...]
    extents: tuple[tuple[int, int], ...]
    borrowed: tuple[tuple[int, int], ...] = ()
    shared: tuple[int, ...] = ()


class OnDisk(NamedTuple):
    """A value in the spill file: its pickle and buffers lie there from ``offset`` on, one after another."""

    offset: int
    sizes: tuple[int, ...]


class Scratch(NamedTuple):
    """Scratch space of a plan: a range of the spill file, where tasks write and read (see ``BlockTask.scratch``).

    Several values may name one range, for tasks pass it on. It is free once all of them are dropped.
    """

    offset: int
    size: int


Value: TypeAlias = bytes | Stored | OnDisk | Scratch

# ---------------------------------------------------------------- scheduler → worker


class Function(NamedTuple):
    """Defines a function for futures. ``blob`` is its pickle."""

    number: int
    blob: Value
    name: str


class Graph(NamedTuple):
    """Defines a task graph.

    ``payload`` is the :class:`~tilework.engine.taskgraph.TaskGraph`. Its task 0 is ``base`` for the scheduler, except
    for those in ``held``: tasks that are never run, since their values are blocks of other graphs (task → block).
    """

    number: int
    payload: Value
    base: int
    held: dict[int, int]


class Forget(NamedTuple):
    """These functions and graphs will not be used any more."""

    functions: tuple[int, ...]
    graphs: tuple[int, ...]


class CallTask(NamedTuple):
    """Work of a task: ``function(*args, **kwargs)``.

    ``args`` is a pickle of ``(args, kwargs)``, in which :class:`~tilework.engine.cluster.store.values.Input` ``k``
    stands for the value of task ``inputs[k]``.
    """

    function: int
    args: Value
    inputs: tuple[int, ...]


class BlockTask(NamedTuple):
    """Work of a task: task number ``task`` of a graph (the graph's own number).

    ``scratch`` is the range of the spill file that was allocated for it, if it is one of ``SubmitGraph.scratch``. The
    task's value is that range.
    """

    graph: int
    task: int
    scratch: Scratch | None = None


class Batch(NamedTuple):
    """Run ``tasks`` in this order on one thread, then report :class:`Finished` or :class:`Failed`.

    Attributes
    ----------
    number
        Unique in the cluster.
    work
        What to do for each of ``tasks``.
    inputs
        Values of the blocks that are needed and not made in the batch itself, by task number. What is OnDisk is read
        back into the arena first, and reported as :class:`Loaded`.
    inner
        For tasks whose value nobody outside the batch needs: by how many tasks of the batch it is used. It is not
        stored if all of those have run.
    allowance
        Bytes that the results may weigh together. If they weigh more, the rest is given back.
    """

    number: int
    tasks: list[int]
    work: list[CallTask | BlockTask]
    inputs: dict[int, Value]
    inner: dict[int, int]
    allowance: int


class GiveBack(NamedTuple):
    """Give back what was not started of these batches: answered by one :class:`Returned` for each."""

    batches: tuple[int, ...]


class SpillBlocks(NamedTuple):
    """Write blocks to the spill file: ``(task, value, offset)`` each. Answered by :class:`Spilled`."""

    blocks: list[tuple[int, Stored, int]]


class Free(NamedTuple):
    """These extents of your slot (by offset) are yours again. To workers and clients."""

    extents: list[int]


class RunOnWorker(NamedTuple):
    """Call a function on the worker, beside its tasks (``Client.run``, setup functions). Answered by Ran."""

    request: int
    blob: Value


class Leave(NamedTuple):
    """Finish what runs, then end."""


# ---------------------------------------------------------------- worker → scheduler


class Ready(NamedTuple):
    """The worker can run batches."""

    pid: int


class Finished(NamedTuple):
    """A batch is done. ``results`` and ``sizes`` in the order of its tasks; None for an inner value that was dropped.

    ``start`` and ``stop`` are monotonic seconds. ``viewed``: inputs whose memory is still looked at.
    """

    batch: int
    results: list[Value | None]
    sizes: list[int]
    start: float
    stop: float
    viewed: tuple[int, ...] = ()


class Failed(NamedTuple):
    """Task number ``len(results)`` of the batch raised; those before it are done, those after it not started."""

    batch: int
    results: list[Value | None]
    sizes: list[int]
    start: float
    stop: float
    error: bytes
    viewed: tuple[int, ...] = ()


class Returned(NamedTuple):
    """The last ``n`` tasks of the batch were not started and will not be. A batch of which none was started ends so."""

    batch: int
    n: int


class Loaded(NamedTuple):
    """Blocks of ``Batch.inputs`` that were on disk are in the arena."""

    batch: int
    values: dict[int, Stored]


class Spilled(NamedTuple):
    """Blocks that are on disk; those that are not; and why not."""

    done: list[tuple[int, OnDisk]]
    kept: list[int]
    error: str | None


class Unviewed(NamedTuple):
    """Nobody looks at these blocks any more (see Finished.viewed)."""

    tasks: tuple[int, ...]


class Forgotten(NamedTuple):
    """Nobody looks at the memory of this graph's payload any more, which the worker was told to forget."""

    graph: int


class Blocked(NamedTuple):
    """A task of this worker waits for another (``delta`` 1), so that it may run one more; or does no longer (-1)."""

    delta: int


class Ran(NamedTuple):
    """Answer to RunOnWorker: a pickled result, or a pickled error."""

    request: int
    value: Value | None
    error: bytes | None


class Log(NamedTuple):
    """A line for ``cluster.logs()``."""

    level: int
    text: str


# ---------------------------------------------------------------- client ↔ scheduler


class Hello(NamedTuple):
    """A client's first message. ``versions``: of Python and the packages whose pickles must fit."""

    versions: dict[str, str]
    pid: int
    name: str


class Welcome(NamedTuple):
    """The client's number and slot, and where the arena is (see ``arena.Arena.open``)."""

    client: int
    slot: int
    arena: tuple[int, int, int, int]  # pid, descriptor, bytes of a slot, number of slots
    memory: int
    address: str
    dashboard: str | None
    cluster: str


class Refused(NamedTuple):
    """Why the client may not connect."""

    reason: str


class Define(NamedTuple):
    """The client's function number ``function``, before it is first submitted."""

    function: int
    blob: Value
    name: str


class TaskOptions(NamedTuple):
    """How to run futures.

    Attributes
    ----------
    priority
        Higher goes first.
    retries
        How often to try again after an error.
    workers
        Names or numbers of the workers that may run it; None is any.
    """

    priority: int = 0
    retries: int = 0
    workers: tuple[int | str, ...] | None = None


class Submit(NamedTuple):
    """Futures ``first``, ``first + 1`` ... are calls of one function.

    ``args`` holds one pickled ``(args, kwargs)`` a call, ``inputs`` the futures whose values they need: ``Input(k)`` in
    a call's arguments stands for ``inputs[i][k]``. ``inputs`` is None if no call needs any.
    """

    first: int
    function: int
    args: list[Value]
    inputs: list[tuple[int, ...]] | None
    options: TaskOptions


class SubmitGraph(NamedTuple):
    """Run a task graph.

    Attributes
    ----------
    first
        Futures ``first + k`` hold the graph's outputs ``k``; future ``first + len(outputs)`` is done (with None) when
        every task is.
    payload
        The pickled TaskGraph, for workers.
    arrays
        What the scheduler needs of it: ``indptr``, ``deps``, ``out_bytes``, ``work_bytes``, ``rank``, ``outputs``,
        ``offsets``, and ``calls`` (bool a stage: of delayed calls).
    held
        Task of the graph → future, for tasks whose values are futures already.
    labels
        Of the stages, for messages and pages.
    resident_bytes
        What its sinks hold while it runs.
    scratch
        Bytes of scratch space by task of the graph, of those that open some.
    watched
        Whether the client wants :class:`Progress`.
    """

    first: int
    payload: Value
    arrays: dict[str, np.ndarray]
    held: dict[int, int]
    labels: tuple[str, ...]
    resident_bytes: int
    scratch: dict[int, int]
    options: TaskOptions
    watched: bool


class Put(NamedTuple):
    """Futures that have their values from the start (``scatter``)."""

    first: int
    values: list[Value]
    sizes: list[int]


class Get(NamedTuple):
    """Ask for values: they stay where they are until ``Unpin``. Answered by :class:`Values` once all are there."""

    request: int
    futures: list[int]


class Unpin(NamedTuple):
    """The client looks no more at what it got, once for each time it got it."""

    futures: list[int]


class Release(NamedTuple):
    """The client has no reference to these futures any more."""

    futures: list[int]


class Follow(NamedTuple):
    """The client has met futures that another one made (pickled, or by key): tell it, too, how they end."""

    futures: list[int]


class Cancel(NamedTuple):
    """Do not run these, nor what needs them. ``force``: also those that run (their worker is stopped)."""

    futures: list[int]
    force: bool = False


class Retry(NamedTuple):
    """Try failed futures again, and the failed ones that they need."""

    futures: list[int]


class Request(NamedTuple):
    """Anything that is asked seldom: ``method`` is a name in ``server.REQUESTS``. Answered by :class:`Reply`.

    ==================================  =========================================================================
    ``info()``                          dict: ``name``, ``address``, ``dashboard``, ``memory``, and ``workers``, a dict
                                        by number: ``name``, ``pid``, ``threads``, ``memory_limit``, ``memory``,
                                        ``running`` (tasks), ``done`` (tasks)
    ``who_has(futures | None)``         numbers of the workers by future: whose slot has its value, () if none has
    ``run(blob, workers | None)``       ``(value, error)`` of :class:`Ran` by worker. The blob is a pickled function of
                                        no arguments. ``workers`` are numbers or names
    ``setup(blob)``                     as ``run`` on all; workers that come later run it before anything else
    ``versions()``                      dict: ``scheduler``: versions, ``workers``: versions by number
    ``restart()``                       None, once all workers are new and all futures cancelled
    ``scale(n)``                        None, at once
    ``adapt(minimum, maximum)``         None, at once; ``scale`` ends it
    ``wait_for_workers(n)``             None, once so many serve
    ``logs()``                          text by name (``scheduler`` and the workers')
    ``fire_and_forget(futures)``        None, at once: they will be run also if they are released
    ``shutdown()``                      None; then the cluster ends
    ==================================  =========================================================================
    """

    number: int
    method: str
    args: tuple[Any, ...]


class Reply(NamedTuple):
    """The answer to a Request, or text that says why there is none (``kind`` names an error class)."""

    number: int
    value: Any
    error: str | None = None
    kind: str | None = None


class Done(NamedTuple):
    """Futures that have values: ``bytes`` where small, else None (ask by Get). ``sizes`` in bytes of memory."""

    futures: list[int]
    values: list[bytes | None]
    sizes: list[int]


class Erred(NamedTuple):
    """Futures that failed, with one pickled ``(exception, traceback)``; or were cancelled (then it is ``b""``)."""

    futures: list[int]
    error: bytes
    cancelled: bool = False


class Values(NamedTuple):
    """Answer to Get, in its order. What could not be had is None: it failed, see Erred.

    ``error`` is a pickled error if none could be had, though they are done: they are too large together, or the disk
    does not give them back.
    """

    request: int
    values: list[Value | None]
    error: bytes = b""


class Progress(NamedTuple):
    """A batch of a watched graph is done: tasks by the graph's own numbers; the other fields are BatchFinished's."""

    first: int
    worker: int
    tasks: list[int]
    start: float
    stop: float
    held: int
    spilled: int


class Over(NamedTuple):
    """Nothing of the graph that was submitted as ``first`` runs, or will: the memory of its results is the client's.

    To the client that submitted it. A graph that failed is over once its futures were released.
    """

    first: int


class Closing(NamedTuple):
    """The cluster ends. The last message."""

    reason: str
