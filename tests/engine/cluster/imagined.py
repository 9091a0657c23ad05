"""A cluster in which nothing is real but the scheduler's decisions: workers, clients and memory are models.

Values are *symbols*: what was called with which inputs. The memory knows which symbol lies where, and what is free, so
whoever reads what was freed, moved or mixed up is found out. Workers compute symbols; clients know which to expect.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from tilework.base.errors import MemoryBudgetError
from tilework.engine.cluster.scheduler import scheduling
from tilework.engine.cluster.scheduler.members import Cause, Worker
from tilework.engine.cluster.store.values import load_error
from tilework.engine.cluster.wire import messages
from tilework.engine.cluster.wire.messages import OnDisk, Stored
from tilework.engine.local.check import Watched

SLOT_BITS = 32
FAILURE = "failure"


class Channel:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)


class Memory:
    """The arena and the spill file."""

    def __init__(self) -> None:
        self.symbols: dict[int, Any] = {}  # by offset of the extents in use
        self.disk: dict[int, Any] = {}
        self._next: dict[int, int] = {}

    def store(self, slot: int, symbol: Any, size: int, borrowed: tuple[tuple[int, int], ...] = ()) -> Stored:
        offset = self._next.setdefault(slot, slot << SLOT_BITS)
        self._next[slot] += size
        self.symbols[offset] = symbol
        return Stored(b"", ((offset, size),), ((offset, size),), borrowed)

    def read(self, value: Any) -> Any:
        if type(value) is bytes:
            return pickle.loads(value)
        assert type(value) is Stored, f"{value} is not in memory"
        for offset, _ in value.extents + value.borrowed:
            assert offset in self.symbols, f"{value} lies in memory that was freed"
        return self.symbols[value.parts[0][0]]

    def free(self, offsets: list[int]) -> None:
        for offset in offsets:
            del self.symbols[offset]


class ImaginedWorker:
    """A worker process with one thread."""

    def __init__(self, cluster: Cluster, number: int, slot: int) -> None:
        self.cluster = cluster
        self.channel = Channel()
        self.member = Worker(number, slot, 1, self.channel, 0.0, pid=1000 + slot)
        self.works: list[messages.Batch] = []
        self.known: set[tuple[str, int]] = set()
        self.leaving = False

    def say(self, message: Any) -> None:
        self.cluster.scheduling.from_worker(self.member, message)

    def listen(self) -> None:
        """Take in all that was sent."""
        sent, self.channel.sent = self.channel.sent, []
        for message in sent:
            kind = type(message)
            if kind is messages.Batch:
                self.works.append(message)
            elif kind is messages.Function or kind is messages.Graph:
                self.known.add((kind.__name__, message.number))
            elif kind is messages.Forget:
                self.known -= {("Function", n) for n in message.functions} | {("Graph", n) for n in message.graphs}
                for number in message.graphs:
                    self.say(messages.Forgotten(number))
            elif kind is messages.GiveBack:
                for batch in [work for work in self.works[1:] if work.number in message.batches]:
                    self.works.remove(batch)
                    self.say(messages.Returned(batch.number, len(batch.tasks)))
            elif kind is messages.SpillBlocks:
                self.spill(message)
            elif kind is messages.Leave:
                self.leaving = True
                for batch in self.works[1:]:
                    self.say(messages.Returned(batch.number, len(batch.tasks)))
                del self.works[1:]
            else:
                raise AssertionError(f"a worker hears {message}")

    def spill(self, message: messages.SpillBlocks) -> None:
        done, kept = [], []
        for task, value, offset in message.blocks:
            if self.cluster.disk_full:
                kept.append(task)
            else:
                self.cluster.memory.disk[offset] = self.cluster.memory.read(value)
                sizes = (len(value.head), *(size for _, size in value.parts))
                done.append((task, OnDisk(offset, sizes)))
        self.say(messages.Spilled(done, kept, "it is full" if kept else None))

    def run(self, stop: int | None, how: str, forms: Callable[[], int]) -> None:
        """Run the first batch: all of it, or until task number ``stop`` fails, kills the worker, or is given back."""
        batch = self.works.pop(0)
        memory = self.cluster.memory
        places = dict(batch.inputs)
        loaded = {}
        for block, value in places.items():
            if type(value) is OnDisk:
                loaded[block] = memory.store(self.member.slot, memory.disk[value.offset], sum(value.sizes))
        if loaded:
            places.update(loaded)
            self.say(messages.Loaded(batch.number, loaded))
        n = len(batch.tasks) if stop is None or how == "done" else min(stop, len(batch.tasks) - 1)
        symbols = {block: memory.read(value) for block, value in places.items()}
        used = dict(batch.inner)
        results: list[Any] = []
        for task, todo in zip(batch.tasks[:n], batch.work[:n], strict=True):
            inputs, symbol = self.compute(todo, symbols)
            symbols[task] = symbol
            for block in set(inputs) & used.keys():
                used[block] -= 1
            results.append((task, symbol, inputs))
        if how == "die" and stop is not None:
            self.works.insert(0, batch)
            self.die(batch.tasks[n])
            return
        values, sizes = [], []
        for task, symbol, inputs in results:
            form = forms()
            if task in batch.inner and not used[task]:
                values.append(None)
            elif form == 0:
                values.append(pickle.dumps(symbol))
            else:
                lent = [places[block] for block in inputs if type(places.get(block)) is Stored]
                borrowed = lent[0].extents if form == 2 and lent else ()
                values.append(memory.store(self.member.slot, symbol, 100 * form, borrowed))
            sizes.append(100 * form)
        if how == "return" and stop is not None and n:
            self.say(messages.Returned(batch.number, len(batch.tasks) - n))
            self.say(messages.Finished(batch.number, values, sizes, 0.0, 1.0))
        elif how == "return" and stop is not None:
            self.say(messages.Returned(batch.number, len(batch.tasks)))
        elif how == "fail" and stop is not None:
            error = pickle.dumps((FAILURE, batch.tasks[n]))
            self.say(messages.Failed(batch.number, values, sizes, 0.0, 1.0, error))
        else:
            self.say(messages.Finished(batch.number, values, sizes, 0.0, 1.0))

    def compute(self, todo: Any, symbols: dict[int, Any]) -> tuple[tuple[int, ...], Any]:
        """The inputs of a task, and its symbol. All that it needs must have been given."""
        if type(todo) is messages.CallTask:
            assert ("Function", todo.function) in self.known
            given = pickle.loads(todo.args)
            return todo.inputs, (given, *(symbols[block] for block in todo.inputs))
        assert ("Graph", todo.graph) in self.known
        graph = self.cluster.scheduling.futures.graphs[todo.graph]
        name, deps = pickle.loads(graph.payload)
        inputs = tuple(graph.held.get(local, graph.base + local) for local in deps[todo.task])
        return inputs, (name, todo.task, *(symbols[block] for block in inputs))

    def die(self, mark: int = -1, cause: Cause | None = None) -> None:
        """The process ends; what it had in memory and nobody knows of is gone."""
        self.member.cause = cause
        self.cluster.scheduling.worker_died(self.member, -9, [mark], self.cluster.now)
        self.cluster.workers.remove(self)


class ImaginedClient:
    """A client that knows what its futures must be."""

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self.cluster = cluster
        self.here = cluster.scheduling.holders.new_client(slot)
        self.symbols: dict[int, Any] = {}  # by future that it holds
        self.states: dict[int, str] = {}
        self.looks: list[tuple[int, Stored]] = []
        self.asked: dict[int, list[int]] = {}
        self.serial = self.here.number << 40
        self.function = 0
        self.say(messages.Define(0, b"f", "f"))

    def say(self, message: Any) -> None:
        self.cluster.scheduling.from_client(self.here, message)

    def new(self, symbols: list[Any]) -> int:
        first = self.serial
        self.serial += len(symbols)
        self.symbols.update(enumerate(symbols, first))
        self.states.update(dict.fromkeys(range(first, self.serial), "pending"))
        return first

    def submit(self, inputs: list[tuple[int, ...]], options: messages.TaskOptions) -> None:
        names = [self.cluster.new_name() for _ in inputs]
        symbols = [(name, *(self.cluster.symbols[f] for f in needs)) for name, needs in zip(names, inputs, strict=True)]
        first = self.new(symbols)
        self.cluster.symbols.update(enumerate(symbols, first))
        args = [pickle.dumps(name) for name in names]
        self.say(messages.Submit(first, 0, args, inputs if any(inputs) else None, options))

    def submit_graph(self, deps: list[list[int]], outputs: list[int], held: dict[int, int], watched: bool) -> None:
        name, n = self.cluster.new_name(), len(deps)
        made: list[Any] = []
        for task, needs in enumerate(deps):
            future = held.get(task)
            made.append((name, task, *(made[i] for i in needs)) if future is None else self.cluster.symbols[future])
        symbols = [made[task] for task in outputs]
        first = self.new([*symbols, None])
        self.cluster.symbols.update(enumerate([*symbols, None], first))
        arrays = {
            "indptr": np.cumsum([0, *map(len, deps)]),
            "deps": np.array([i for needs in deps for i in needs], np.int32),
            "out_bytes": np.zeros(n, np.int64),
            "work_bytes": np.zeros(n, np.int64),
            "rank": np.arange(n, dtype=np.int32),
            "outputs": np.array(outputs, np.int32),
            "offsets": np.array([0, n]),
            "calls": np.array([True]),
        }
        payload = pickle.dumps((name, deps))
        options = messages.TaskOptions()
        self.say(messages.SubmitGraph(first, payload, arrays, held, ("op",), 0, {}, options, watched))

    def scatter(self, form: int) -> None:
        symbol = self.cluster.new_name()
        first = self.new([symbol])
        self.cluster.symbols[first] = symbol
        value: Any = pickle.dumps(symbol)
        if form:
            value = self.cluster.memory.store(self.here.slot, symbol, 100 * form)
        self.say(messages.Put(first, [value], [100 * form]))

    def get(self, futures: list[int]) -> None:
        request = len(self.asked)
        self.asked[request] = futures
        self.say(messages.Get(request, futures))

    def unpin(self) -> None:
        future, value = self.looks.pop()
        assert self.cluster.memory.read(value) == self.cluster.symbols[future], "it was there while one looked"
        self.say(messages.Unpin([future]))

    def release(self, futures: list[int]) -> None:
        for future in futures:
            del self.symbols[future], self.states[future]
        self.say(messages.Release(futures))

    def hear(self, message: Any) -> None:
        kind = type(message)
        if kind is messages.Done:
            for future, value in zip(message.futures, message.values, strict=True):
                self._end(future, "finished")
                if value is not None:
                    assert pickle.loads(value) == self.cluster.symbols[future]
        elif kind is messages.Erred:
            for future in message.futures:
                self._end(future, "cancelled" if message.cancelled else "error")
        elif kind is messages.Values:
            futures = self.asked[message.request]
            if message.error:
                assert isinstance(load_error(message.error), MemoryBudgetError)
                assert set(message.values) == {None}
                return
            for future, value in zip(futures, message.values, strict=True):
                assert value is not None or self.states.get(future) != "finished"
                if value is not None:
                    assert self.cluster.memory.read(value) == self.cluster.symbols[future]
                if type(value) is Stored:
                    self.looks.append((future, value))
        else:
            assert kind in (messages.Progress, messages.Over), message

    def _end(self, future: int, state: str) -> None:
        if future in self.states:  # else it was released meanwhile
            before = self.states[future]
            assert before == "pending" or state == "cancelled" or self.cluster.retried, f"{future:x}: {before}"
            self.states[future] = state


class Cluster:
    """The scheduler's decisions, and around them models."""

    def __init__(self, memory: int) -> None:
        self.memory = Memory()
        self.scheduling = scheduling.Scheduling(lambda offset: offset >> SLOT_BITS, memory, 1 << 30, core=Watched)
        self.workers: list[ImaginedWorker] = []
        self.clients: list[ImaginedClient] = []
        self.symbols: dict[int, Any] = {}  # of all futures that ever were
        self.disk_full = False
        self.retried = False  # whether what had failed may come back
        self.now = 0.0
        self._slots = 0
        self._names = 0

    def new_name(self) -> str:
        self._names += 1
        return f"t{self._names}"

    def join(self) -> ImaginedWorker:
        self._slots += 1
        worker = ImaginedWorker(self, self.scheduling.members.free_number(), self._slots)
        self.scheduling.members.join(worker.member)
        self.scheduling.worker_serves(worker.member)
        self.workers.append(worker)
        return worker

    def connect(self) -> ImaginedClient:
        self._slots += 1
        client = ImaginedClient(self, self._slots)
        self.clients.append(client)
        return client

    def vanish(self, client: ImaginedClient) -> None:
        self.clients.remove(client)
        self.scheduling.client_gone(client.here)

    def turn(self) -> None:
        """As the server's loop does it."""
        self.now += 1.0
        self.scheduling.turn(self.now)
        if self.scheduling.dispatch.idle:
            self.scheduling.dispatch.ask_back(self.now)
        by_number = {client.here.number: client for client in self.clients}
        for here, said in self.scheduling.holders.take_messages():
            for message in said:
                by_number[here.number].hear(message)
        for extents in self.scheduling.blocks.take_freed().values():
            self.memory.free([offset for offset, _ in extents])
        for offset, _ in self.scheduling.blocks.take_unused():
            self.memory.disk.pop(offset, None)
        self.scheduling.core.validate()  # type: ignore[attr-defined]

    def settle(self) -> None:
        """Run everything that can run."""
        for _ in range(1000):
            self.turn()
            told = [worker for worker in self.workers if worker.channel.sent]
            for worker in told:
                worker.listen()
            busy = [worker for worker in self.workers if worker.works]
            for worker in busy:
                worker.run(None, "done", lambda: 0)
            if not told and not busy:
                return
        raise AssertionError("it does not come to an end")
