"""Futures and tasks: functions and graphs, results and errors. Pure: no I/O.

Who holds which future is kept in :class:`~tilework.engine.cluster.scheduler.clients.Holders`; the core counts one hold
for each future, whoever they are, and does not run what nobody wants any more. The last future of a graph stands for
all of it: it is done when every task is, and has no task of its own before (``~graph`` where a task is meant). When
nobody has a future of a graph any more, what is left of it is cancelled.

What the core forgets is forgotten here (:meth:`Futures.collect`, after each event): ``calls`` keeps the arguments of a
call until it has succeeded, ``failures`` the error of a task, so that it can be tried again.
"""

from __future__ import annotations

import pickle
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from math import inf
from types import SimpleNamespace
from typing import Final

from tilework.base.errors import ConfigError, InternalError
from tilework.engine.cluster.scheduler.blocks import Blocks
from tilework.engine.cluster.scheduler.clients import CLIENT_SHIFT, Client, Holders
from tilework.engine.cluster.scheduler.definitions import Function, Graph, Operation
from tilework.engine.cluster.store.values import dump_error
from tilework.engine.cluster.wire.messages import (
    CallTask,
    Define,
    Erred,
    Follow,
    Over,
    Progress,
    Put,
    Submit,
    SubmitGraph,
    TaskOptions,
    Value,
)
from tilework.engine.local.queue import FAR
from tilework.engine.local.state import Scheduler
from tilework.engine.local.states import FAILED, RUNNING

ADOPTED: Final = 0  # the stage of blocks that no task has made
NONE: Final = pickle.dumps(None, 5)
DROPPED: Final = b""  # the value of a finished task that nobody will ask for
CANCELLED: Final = b""  # the error of what was cancelled
PRIORITIES: Final = 1000  # of users: up to here, in both directions
DEPTHS: Final = 2048  # within a priority, what needs others goes first, the deeper the earlier: so memory is freed


class Futures:
    """See the module's docstring.

    Parameters
    ----------
    core, blocks, holders
        They are told of every task, value and future.

    Attributes
    ----------
    calls
        What is to be called for each task that is a call and has not succeeded.
    failures
        The pickled error of each task that failed or was cancelled.
    ended
        Tasks that have been done, or have failed, since somebody looked: only those in ``awaited``.
    obsolete
        Numbers of functions and graphs that workers may forget.
    """

    def __init__(self, core: Scheduler, blocks: Blocks, holders: Holders) -> None:
        self.core, self.blocks, self.holders = core, blocks, holders
        self.functions: dict[int, Function] = {}  # by number
        self.graphs: dict[int, Graph] = {}
        self.calls: dict[int, CallTask] = {}  # by task
        self.failures: dict[int, bytes] = {}  # by task
        self.retries: dict[int, int] = {}  # by task, of calls that may be tried again by themselves
        self.bound: dict[int, frozenset[int]] = {}  # by task: the only workers that may run it
        self.hopeless: set[int] = set()  # tasks that failed for good: what they need is gone
        self.awaited: set[int] = set()  # tasks
        self.ended: list[int] = []
        self.obsolete: tuple[list[int], list[int]] = [], []
        self.resident_bytes = 0  # of all graphs
        self.operations: dict[int, Operation] = {}  # by stage, of functions and graphs that there are
        self.past: dict[str, Operation] = {}  # by label, of those that there were
        self._bases: list[int] = []  # of graphs, ascending ...
        self._by_base: list[Graph] = []  # ... and these
        self._graph_count = 0
        if core.new_stage() != ADOPTED:
            raise InternalError("this core has been used before")
        self.operations[ADOPTED] = Operation("scatter")

    # ------------------------------------------------------------ functions

    def define(self, client: Client, message: Define) -> None:
        """A client will submit calls of this function."""
        client.functions[message.function] = self.new_function(message.blob, message.name)

    def new_function(self, blob: Value, name: str) -> Function:
        """A function to be called by tasks."""
        function = Function(self.core.new_stage(), blob, name)
        self.blocks.ref(blob)
        self.functions[function.number] = function
        self.operations[function.number] = Operation(name)
        return function

    def retire(self, client: Client, numbers: Iterable[int]) -> None:
        """A client will submit no more calls of these functions of its."""
        for number in numbers:
            function = client.functions.pop(number)
            function.retired = True
            self._fewer_calls(function, 0)

    def _fewer_calls(self, function: Function, n: int) -> None:
        function.left -= n
        if function.retired and not function.left:
            self.blocks.unref(function.blob)
            del self.functions[function.number]
            self._file(function.number)
            self.obsolete[0].append(function.number)

    # ------------------------------------------------------------ what there is to do

    def submit(self, client: Client, message: Submit) -> range:
        """Calls of one function. Returns their tasks. ``collect`` must follow."""
        function, options = client.functions[message.function], message.options
        inputs, broken = (None, {}) if message.inputs is None else self._find_inputs(message.inputs)
        tasks = self.add_calls(function, message.args, inputs, options)
        self.holders.enter(client, range(message.first, message.first + len(tasks)), tasks)
        for i, (error, for_good) in broken.items():
            self._fail_early(tasks[i], error, for_good)
        return tasks

    def _fail_early(self, task: int, error: bytes, for_good: bool) -> None:
        """A task cannot run as it is, and, if that is for good, never will."""
        if for_good:
            self.hopeless.add(task)
        self.fail([task, *self.core.cancel([task])], error)

    def add_calls(
        self, function: Function, args: list[Value], inputs: list[tuple[int, ...]] | None, options: TaskOptions
    ) -> range:
        """Calls whose inputs are tasks."""
        n, number = len(args), function.number
        priority = _bounded(options.priority) * DEPTHS
        if inputs is not None:
            priority += self._depth(chain.from_iterable(inputs))
        base = self.core.add_calls(n, inputs, number, priority)
        tasks = range(base, base + n)
        needs = [()] * n if inputs is None else inputs
        self.calls.update(zip(tasks, map(CallTask, [number] * n, args, needs), strict=True))
        for value in args:
            if type(value) is not bytes:
                self.blocks.ref(value)
        if options.retries:
            self.retries.update(dict.fromkeys(tasks, options.retries))
        self.operations[number].total += n
        function.left += n
        return tasks

    def _depth(self, inputs: Iterable[int]) -> int:
        """How deep what needs these tasks is: one deeper than they. What clients have put there counts for nothing."""
        ranks, stage_of = self.core.queue.ranks, self.core.stage_of
        deepest = max((-(ranks[task] // FAR) % DEPTHS for task in inputs if stage_of[task] != ADOPTED), default=-1)
        return min(deepest + 1, DEPTHS - 1)

    def _find_inputs(
        self, inputs: list[tuple[int, ...]]
    ) -> tuple[list[tuple[int, ...]], dict[int, tuple[bytes, bool]]]:
        """The tasks of input futures; and by call the error of an input that failed, or is gone (then it is True)."""
        task_of, failures = self.holders.task_of, self.failures
        found: list[tuple[int, ...]] = []
        broken: dict[int, tuple[bytes, bool]] = {}
        for i, futures in enumerate(inputs):
            tasks = []
            for future in futures:
                task = task_of.get(future)
                if task is None:
                    broken[i] = CANCELLED, True
                elif task < 0:
                    broken[i] = failures.get(task) or dump_error(_not_yet()), True
                else:
                    tasks.append(task)
                    if task in failures and i not in broken:
                        broken[i] = failures[task], False
            found.append(tuple(tasks))
        return found, broken

    def put(self, client: Client, message: Put) -> None:
        """Values that a client has stored itself."""
        base = self.core.adopt(message.sizes)
        tasks = range(base, base + len(message.sizes))
        for task, value in zip(tasks, message.values, strict=True):
            self.blocks.put(task, value)
        self.holders.enter(client, range(message.first, message.first + len(tasks)), tasks)
        for future, value, size in zip(
            range(message.first, message.first + len(tasks)), message.values, message.sizes, strict=True
        ):
            self.holders.tell_done(client, future, value, size)

    def submit_graph(self, client: Client, message: SubmitGraph) -> Graph:
        """A task graph. ``collect`` must follow."""
        arrays, n = message.arrays, len(message.arrays["rank"])
        held: dict[int, int] = {}
        lost: list[int] = []
        for local, future in message.held.items():
            task = self.holders.task_of.get(future)
            if task is None or task < 0:
                lost.append(local)
            else:
                held[local] = task
        priority = _bounded(message.options.priority) * DEPTHS + self._depth(held.values())
        core_arrays = SimpleNamespace(**arrays)
        base = self.core.add(core_arrays, held, priority, arrays["calls"].tolist())
        self._graph_count += 1
        graph = Graph(
            number=self._graph_count,
            client=client.number,
            first=message.first,
            payload=message.payload,
            base=base,
            stage=len(self.core.seconds) - len(message.labels),
            n_tasks=n,
            held=held,
            scratch=message.scratch,
            labels=message.labels,
            offsets=arrays["offsets"].tolist(),
            resident_bytes=message.resident_bytes,
            watched=message.watched,
            retries=message.options.retries,
            left=n - len(held),
            futures=len(arrays["outputs"]) + 1,
        )
        self._enter_graph(graph)
        outputs = [held.get(local, base + local) for local in arrays["outputs"].tolist()]
        for k, task in enumerate(outputs):
            self.holders.alias(client, message.first + k, task)
        self.holders.enter(client, [message.first + len(outputs)], [graph.last])
        for k, task in enumerate(outputs):  # those that were there before
            self.tell(client, graph.first + k, task)
        for local in lost:
            self._fail_early(base + local, CANCELLED, True)
        self._fail_or_end_early(graph)
        return graph

    def _enter_graph(self, graph: Graph) -> None:
        self.graphs[graph.number] = graph
        self._bases.append(graph.base)
        self._by_base.append(graph)
        self.blocks.ref(graph.payload)
        self.resident_bytes += graph.resident_bytes
        for s, (label, a, b) in enumerate(zip(graph.labels, graph.offsets[:-1], graph.offsets[1:], strict=True)):
            self.operations[graph.stage + s] = Operation(label, b - a)

    def _fail_or_end_early(self, graph: Graph) -> None:
        """Tasks that need what has failed before; or a graph of which nothing is to be done."""
        for block in graph.held.values():
            error = self.failures.get(block)
            if error is not None:  # the core has failed what needs it
                base = graph.base
                self.fail([t for t in range(base, base + graph.n_tasks) if self.core.states[t] == FAILED], error)
        if not graph.left and graph.last not in self.failures:
            self._end_whole(graph)

    # ------------------------------------------------------------ how tasks end

    def finished(self, tasks: Sequence[int], results: Sequence[Value | None], sizes: Sequence[int]) -> None:
        """These tasks are done, and the core has been told. ``collect`` must follow."""
        self._count_done(tasks)
        holders, values, calls = self.holders, self.blocks.values, self.calls
        future_of, clients, awaited = holders.future_of, holders.clients, self.awaited
        rare = bool(holders.followers or holders.aliases or holders.nobody.held)
        client: Client | None = None
        for task, value, size in zip(tasks, results, sizes, strict=True):
            small = type(value) is bytes
            if small or value is None:
                values[task] = value or DROPPED
            else:
                self.blocks.put(task, value)
            if task in self.failures:  # it was cancelled meanwhile
                self.blocks.drop([task])
                continue
            call = calls.pop(task, None)
            if call is None:
                self._one_less(task)
            else:
                if type(call.args) is not bytes:
                    self.blocks.unref(call.args)
                if self.retries:
                    self.retries.pop(task, None)
            future = future_of.get(task)
            if future is None:
                continue
            if client is None or future >> CLIENT_SHIFT != client.number:
                client = clients.get(future >> CLIENT_SHIFT)
            if client is not None and future in client.held:
                done = client.done
                done.futures.append(future)
                done.values.append(value if small else None)  # type: ignore[arg-type]
                done.sizes.append(size)
                holders.touched.add(client)
            if rare:
                self._tell_others(future, task)
            if task in awaited:
                self.ended.append(task)
        if holders.nobody.held:
            mine = [f for task in tasks for f in holders.futures(task) if f in holders.nobody.held]
            self.release(holders.nobody, mine)

    def _count_done(self, tasks: Sequence[int]) -> None:
        good = [task for task in tasks if task not in self.failures] if self.failures else tasks
        for stage, n in Counter(map(self.core.stage_of.__getitem__, good)).items():
            self.operations[stage].done += n
            function = self.functions.get(stage)
            if function is not None:
                self._fewer_calls(function, n)

    def fail(self, tasks: Sequence[int], error: bytes) -> None:
        """These will not be done: what raised it, or was cancelled, and what needs it. ``collect`` must follow."""
        told: dict[Client, list[int]] = {}
        for task in tasks:
            if task in self.failures:
                continue
            self.failures[task] = error
            if task >= 0:
                self.operations[self.core.stage_of[task]].failed += 1
                if task not in self.calls:
                    self._one_less(task, error)
            for future in self.holders.futures(task):
                for client in self.holders.of(future):
                    told.setdefault(client, []).append(future)
            if task in self.awaited:
                self.ended.append(task)
        for client, futures in told.items():
            self.holders.tell(client, Erred(futures, error, error == CANCELLED))
        nobody = self.holders.nobody
        if nobody in told:
            self.release(nobody, told[nobody])

    def collect(self) -> None:
        """Forget what the core has released. To be called after each event."""
        freed = self.core.take_freed()
        if not freed:
            return
        values, failures = self.blocks.values, self.failures
        unmade = [task for task in freed if task not in values]
        self.blocks.drop(freed)
        if self.bound:
            for task in freed:
                self.bound.pop(task, None)
        for task in unmade:  # it has failed, or was not run since nobody wants it
            call = self.calls.pop(task, None)
            error = failures.pop(task, None)
            self.hopeless.discard(task)
            if error is None:
                self.operations[self.core.stage_of[task]].failed += 1
            if call is not None:
                self.retries.pop(task, None)
                self._fewer_calls(self.functions[call.function], 1)
                if type(call.args) is not bytes:
                    self.blocks.unref(call.args)
            elif error is None:
                self._one_less(task)
            else:
                graph = self.graph_of(task)
                if graph is not None:
                    graph.failed -= 1
                    self._drop_if_done(graph)

    def _one_less(self, task: int, error: bytes | None = None) -> None:
        """A task that is no call has ended."""
        graph = self.graph_of(task)
        if graph is None:
            return
        graph.left -= 1
        if error is not None:
            graph.failed += 1
            if graph.last in self.holders.future_of and graph.last not in self.failures:
                self.fail([graph.last], error)
        elif not graph.left:
            if graph.last not in self.failures:
                self._end_whole(graph)
            self._drop_if_done(graph)

    def _end_whole(self, graph: Graph) -> None:
        """All of a graph is done: its last future becomes one like others."""
        whole = self.holders.future_of.get(graph.last)
        if whole is not None:
            graph.futures -= 1
            task = self.core.adopt([0])
            self.blocks.put(task, NONE)
            self.holders.move(whole, task)
            for client in self.holders.of(whole):
                self.tell(client, whole, task)
            if graph.last in self.awaited:
                self.ended.append(graph.last)
            self.release(self.holders.nobody, [whole])
        self._drop_if_done(graph)

    def _drop_if_done(self, graph: Graph) -> None:
        """Forget a graph of which nothing will run any more."""
        if not graph.left and not graph.failed and self.graphs.pop(graph.number, None) is not None:
            self.blocks.unref(graph.payload)
            self.resident_bytes -= graph.resident_bytes
            for stage in range(graph.stage, graph.stage + len(graph.labels)):
                self._file(stage)
            client = self.holders.clients.get(graph.client)
            if client is not None:
                self.holders.tell(client, Over(graph.first))
            self.obsolete[1].append(graph.number)
            i = bisect_right(self._bases, graph.base) - 1
            del self._bases[i], self._by_base[i]

    def _file(self, stage: int) -> None:
        """Nothing of this kind will run any more."""
        operation = self.operations.pop(stage)
        past = self.past.setdefault(operation.label, Operation(operation.label))
        past.total += operation.total
        past.done += operation.done
        past.failed += operation.failed

    # ------------------------------------------------------------ what clients ask for

    def cancel(self, futures: Iterable[int]) -> list[int]:
        """Do not run these, nor what needs them; those that are done are taken from everybody. ``collect`` must follow.

        Returns all tasks that will not run.
        """
        tasks: list[int] = []
        for future in futures:
            task = self.holders.task_of.get(future)
            if task is None or task in self.failures:
                continue
            if task < 0:
                tasks += self.unfinished(self.graphs[~task])
            elif task in self.blocks.values:
                for client in self.holders.of(future):
                    self.holders.tell(client, Erred([future], CANCELLED, True))
                self.core.release([self.holders.take_away(future)])
            else:
                tasks.append(task)
        failed = self.core.cancel(tasks)
        self.fail(failed, CANCELLED)
        return failed

    def retry(self, client: Client, futures: Iterable[int]) -> None:
        """Try failed futures again, and the failed tasks that they need. Those that cannot be are told so again."""
        failed: list[int] = []
        for future in futures:
            task = self.holders.task_of.get(future)
            again = [] if task is None or task not in self.failures else [task] if task >= 0 else self._failed_of(task)
            failed += again
            if task is None:
                self.holders.tell(client, Erred([future], CANCELLED, True))
            elif not again:
                self.tell(client, future, task)
        again = self.core.retry(failed)
        for task in again:
            del self.failures[task]
            self.operations[self.core.stage_of[task]].failed -= 1
            if task not in self.calls:
                graph = self.graph_of(task)
                if graph is None:
                    raise InternalError(f"task {task} is tried again, but nobody knows what it is")
                graph.left += 1
                graph.failed -= 1
                if not graph.failed:
                    self.failures.pop(graph.last, None)
        hopeless = self.hopeless.intersection(again)
        if hopeless:
            self.fail(self.core.cancel(hopeless), CANCELLED)

    def follow(self, client: Client, message: Follow) -> None:
        """A client holds futures that another one made."""
        lost = []
        for future in message.futures:
            task = self.holders.task_of.get(future)
            if task is None:
                lost.append(future)
            elif future not in client.held:
                self.holders.hold(client, future)
                self.tell(client, future, task)
        if lost:
            self.holders.tell(client, Erred(lost, CANCELLED, True))

    def detach(self, futures: Iterable[int]) -> None:
        """These run also if nobody holds them."""
        for future in futures:
            task = self.holders.task_of.get(future)
            if task is not None and task not in self.blocks.values and task not in self.failures:
                self.holders.hold(self.holders.nobody, future)

    def release(self, client: Client, futures: Iterable[int]) -> None:
        """A client lets go of futures. ``collect`` must follow."""
        tasks = self.holders.let_go(client, futures)
        whole = min(tasks, default=0) < 0  # of graphs: no tasks of the core's
        if self._bases or whole:
            for task in tasks:
                if task not in self.calls:
                    self._one_future_less(task)
        self.core.release([task for task in tasks if task >= 0] if whole else tasks)
        states, uses = self.core.states, self.core.uses
        running = [task for task in tasks if task in self.calls and states[task] == RUNNING and not uses[task]]
        if running:  # should their worker die, they must not run again
            self.fail(self.core.cancel(running), CANCELLED)

    def _one_future_less(self, task: int) -> None:
        """A graph of which nobody has a future any more need not go on, unless tasks that are not its own need it."""
        graph = self.graph_of(task)
        if task < 0:
            self.failures.pop(task, None)
        if graph is not None:
            graph.futures -= 1
            if not graph.futures and graph.left:
                unfinished, states, later = self.unfinished(graph), self.core.states, self.core.later
                if not any(states[user] <= RUNNING for task in unfinished for user in later.get(task, ())):
                    self.fail(self.core.cancel(unfinished), CANCELLED)

    def client_gone(self, client: Client) -> None:
        """A client has left, or vanished. ``collect`` must follow."""
        self.release(client, list(client.held))
        self.retire(client, list(client.functions))
        self.holders.forget(client)

    # ------------------------------------------------------------ telling

    def tell(self, client: Client, future: int, task: int) -> None:
        """Tell a client how a task has ended, if it has."""
        error = self.failures.get(task)
        if error is not None:
            self.holders.tell(client, Erred([future], error, error == CANCELLED))
        elif task in self.blocks.values:
            self.holders.tell_done(client, future, self.blocks.values[task], self.core.sizes[task])

    def _tell_others(self, first: int, task: int) -> None:
        """Tell how a task was done to all but the client that made its first future."""
        for future in self.holders.futures(task):
            for client in self.holders.of(future):
                if future != first or client.number != first >> CLIENT_SHIFT:
                    self.tell(client, future, task)

    def progress(self, graph: Graph, worker: int, tasks: list[int], start: float, stop: float) -> None:
        """Tell a watching client of a batch. ``tasks`` are the graph's own numbers."""
        client = self.holders.clients.get(graph.client)
        if client is not None:
            message = Progress(graph.first, worker, tasks, start, stop, self.core.held, self.core.on_disk)
            client.progress.append(message)
            self.holders.touched.add(client)

    # ------------------------------------------------------------ looking things up

    def graph_of(self, task: int) -> Graph | None:
        """The graph that a task belongs to, if it does and the graph is still known."""
        if task < 0:
            return self.graphs.get(~task)
        i = bisect_right(self._bases, task) - 1
        if i < 0:
            return None
        graph = self._by_base[i]
        return graph if task < graph.base + graph.n_tasks else None

    def unfinished(self, graph: Graph) -> list[int]:
        """Tasks of a graph that have neither been done nor failed."""
        states = self.core.states[graph.base : graph.base + graph.n_tasks]
        return [task for task, state in enumerate(states, graph.base) if state <= RUNNING]

    def _failed_of(self, whole: int) -> list[int]:
        """Tasks of a graph that can be tried again: those that something needs."""
        graph = self.graphs.get(~whole)
        if graph is None:
            return []
        return [task for task in range(graph.base, graph.base + graph.n_tasks) if task in self.failures]

    def seconds_left(self, unknown: float) -> float:
        """How long one thread would take for all that is left; ``unknown`` is for a task of a kind that never ran."""
        seconds = self.core.seconds
        left = 0.0
        for stage, operation in self.operations.items():
            tasks = operation.total - operation.done - operation.failed
            if tasks > 0:
                left += tasks * (unknown if seconds[stage] == inf else seconds[stage])
        return left

    def label(self, task: int) -> str:
        """The name of a task's function or operation, if that is still known."""
        operation = self.operations.get(self.core.stage_of[task])
        return "" if operation is None else operation.label


def _not_yet() -> ConfigError:
    return ConfigError("the future of a computation that only stores can be an argument once it is done: wait() for it")


def _bounded(priority: int) -> int:
    return max(-PRIORITIES, min(priority, PRIORITIES))
