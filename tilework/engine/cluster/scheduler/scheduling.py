"""All that decides, put together: messages of clients and workers in, messages to them out. Pure: no I/O, no clock.

The server feeds it, and sends what it has queued; tests feed it with stories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tilework.base.errors import ConfigError, InternalError
from tilework.engine.cluster.scheduler.blocks import Blocks
from tilework.engine.cluster.scheduler.clients import Client, Holders
from tilework.engine.cluster.scheduler.dispatch import BATCH_SECONDS, BATCH_TASKS, Dispatch
from tilework.engine.cluster.scheduler.faults import Faults
from tilework.engine.cluster.scheduler.fetching import Fetching
from tilework.engine.cluster.scheduler.futures import Futures
from tilework.engine.cluster.scheduler.members import LEAVING, SERVING, Members, Worker, credits_of
from tilework.engine.cluster.store.values import dump_error
from tilework.engine.cluster.wire import messages
from tilework.engine.local.state import Scheduler


class Scheduling:
    """See the module's docstring.

    Parameters
    ----------
    slot_of
        The slot in which an offset of the arena lies.
    memory
        Bytes that blocks, and what running tasks have reserved, may take.
    memory_limit
        Bytes that a worker may take, for messages.
    task_timeout
        Seconds that a task may take, for messages.
    core
        What to make the core of; another kind watches itself.
    """

    def __init__(
        self,
        slot_of: Callable[[int], int],
        memory: int,
        memory_limit: int,
        task_timeout: float | None = None,
        core: type[Scheduler] = Scheduler,
    ) -> None:
        self.memory = memory
        self.core = core(memory, 1, BATCH_SECONDS, BATCH_TASKS)
        self.blocks = Blocks(slot_of)
        self.holders = Holders()
        self.futures = Futures(self.core, self.blocks, self.holders)
        self.fetching = Fetching(self.futures)
        self.members = Members()
        self.dispatch = Dispatch(self.futures, self.members)
        self.faults = Faults(self.futures, self.members, self.dispatch, memory_limit, task_timeout)
        futures, fetching, dispatch = self.futures, self.fetching, self.dispatch
        self._of_clients: dict[type, Callable[[Client, Any], Any]] = {
            messages.Define: futures.define,
            messages.Forget: lambda client, message: futures.retire(client, message.functions),
            messages.Submit: self._submit,
            messages.SubmitGraph: self._submit_graph,
            messages.Put: futures.put,
            messages.Get: fetching.get,
            messages.Unpin: lambda client, message: fetching.unpin(client, message.futures),
            messages.Release: lambda client, message: futures.release(client, message.futures),
            messages.Follow: futures.follow,
            messages.Retry: lambda client, message: futures.retry(client, message.futures),
        }
        self._of_workers: dict[type, Callable[[Worker, Any], None]] = {
            messages.Finished: dispatch.finished,
            messages.Failed: dispatch.finished,
            messages.Returned: dispatch.returned,
            messages.Loaded: lambda worker, message: dispatch.loaded(message),
            messages.Spilled: dispatch.spilled,
            messages.Unviewed: dispatch.unviewed,
            messages.Forgotten: dispatch.forgotten,
            messages.Blocked: self._blocked,
        }

    # ------------------------------------------------------------ events

    def from_client(self, client: Client, message: Any) -> None:
        """A client has said something about futures."""
        handler = self._of_clients.get(type(message))
        if handler is None:
            raise InternalError(f"client {client.number} says {message!r}")
        handler(client, message)
        self.futures.collect()

    def from_worker(self, worker: Worker, message: Any) -> None:
        """A worker has said something about tasks."""
        handler = self._of_workers.get(type(message))
        if handler is None:
            raise InternalError(f"worker {worker.number} says {message!r}")
        handler(worker, message)
        self.futures.collect()

    def cancel(self, futures: Sequence[int]) -> list[int]:
        """Cancel futures; returns the tasks that will not run."""
        tasks = self.futures.cancel(futures)
        self.futures.collect()
        return tasks

    def client_gone(self, client: Client) -> None:
        """A client has left, or vanished."""
        self.fetching.client_gone(client)
        self.futures.client_gone(client)
        self.futures.collect()

    def worker_serves(self, worker: Worker) -> None:
        """A worker is ready for batches."""
        worker.state = SERVING
        self._count_threads()

    def worker_leaves(self, worker: Worker) -> None:
        """A worker shall finish what it runs, and end."""
        worker.state = LEAVING
        worker.channel.send(messages.Leave())
        self.faults.leaving(worker)
        self._count_threads()

    def worker_died(
        self, worker: Worker, code: int | None, marks: list[int], now: float, out_of_memory: bool = False
    ) -> None:
        """A worker process has ended, and all that it said was heard."""
        self.faults.worker_died(worker, code, marks, now, out_of_memory)
        self.futures.collect()
        self._count_threads()

    def _count_threads(self) -> None:
        self.core.workers = max(1, self.members.threads)

    def turn(self, now: float) -> None:
        """All that has arrived was heard: draw the consequences."""
        self.fetching.settle()
        self.futures.collect()
        self.core.limit = max(0, self.memory - self.futures.resident_bytes)
        self.faults.house()
        self.dispatch.hand_out(now)
        self.futures.collect()
        self.fetching.settle()
        self.dispatch.forget()

    # ------------------------------------------------------------ parts of them

    def _submit(self, client: Client, message: messages.Submit) -> None:
        tasks = self.futures.submit(client, message)
        self._bind(tasks, message.options)

    def _submit_graph(self, client: Client, message: messages.SubmitGraph) -> None:
        graph = self.futures.submit_graph(client, message)
        self._bind(range(graph.base, graph.base + graph.n_tasks), message.options)

    def _bind(self, tasks: range, options: messages.TaskOptions) -> None:
        """Tell the core of the only workers that may run these tasks."""
        if options.workers is None:
            return
        try:
            numbers = self.members.find(options.workers)
        except KeyError as error:
            there = ", ".join(str(number) for number in sorted(self.members.workers))
            problem = ConfigError(
                f"workers={options.workers!r}: there is no worker {error.args[0]!r}; there are {there}"
            )
            self.futures.fail(self.core.cancel(tasks), dump_error(problem))
            return
        self.core.bind(tasks, credits_of(numbers))
        self.futures.bound.update(dict.fromkeys(tasks, frozenset(numbers)))

    def _blocked(self, worker: Worker, message: messages.Blocked) -> None:
        worker.blocked += message.delta
