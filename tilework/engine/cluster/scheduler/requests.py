"""What clients ask seldom: see :class:`~tilework.engine.cluster.wire.messages.Request` for what there is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tilework.base.errors import ConfigError, TileworkError
from tilework.engine.cluster.scheduler.clients import Client
from tilework.engine.cluster.scheduler.members import SERVING, STARTING
from tilework.engine.cluster.scheduler.report import info
from tilework.engine.cluster.wire.messages import Reply, Request, Stored, Value
from tilework.engine.cluster.wire.versions import versions

if TYPE_CHECKING:
    from tilework.engine.cluster.scheduler.server import Server

Say = Callable[[Any], None]
"""Called with the answer, now or later."""


class Requests:
    """Answers requests.

    Parameters
    ----------
    server
        Whose clients ask.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._scheduling, self._crew = server.scheduling, server.crew
        self._waiting: list[tuple[Callable[[], bool], Callable[[], None]]] = []  # until when, and then what
        self._results: dict[
            Client, list[Value]
        ] = {}  # of functions that were run on workers: kept until the client goes
        self._methods: dict[str, Callable[..., None]] = {
            "info": self._info,
            "who_has": self._who_has,
            "run": self._run,
            "setup": self._setup,
            "versions": self._versions,
            "restart": self._restart,
            "scale": self._scale,
            "adapt": self._adapt,
            "wait_for_workers": self._wait_for_workers,
            "logs": self._logs,
            "fire_and_forget": self._fire_and_forget,
            "shutdown": self._shutdown,
        }

    def ask(self, client: Client, request: Request) -> None:
        """Answer, now or later.

        Raises
        ------
        Exception
            A bug; the client was answered all the same.
        """
        tell = self._scheduling.holders.tell

        def say(value: Any) -> None:
            if client.number in self._scheduling.holders.clients:
                tell(client, Reply(request.number, value))

        method = self._methods.get(request.method)
        try:
            if method is None:
                raise ConfigError(f"the cluster knows no request {request.method!r}")
            method(client, say, *request.args)
        except TileworkError as error:
            tell(client, Reply(request.number, None, str(error), type(error).__name__))
        except Exception as error:
            tell(client, Reply(request.number, None, f"{request.method} failed: {error!r}", "InternalError"))
            raise

    def look(self) -> None:
        """Answer those that wait for something that is so now. To be called at the end of a turn."""
        for waiting in self._waiting.copy():
            if waiting[0]():
                self._waiting.remove(waiting)
                waiting[1]()

    def client_gone(self, client: Client) -> None:
        """Nobody looks at what was run for it any more."""
        for value in self._results.pop(client, ()):
            self._scheduling.blocks.unref(value)

    # ------------------------------------------------------------ asking

    def _info(self, client: Client, say: Say) -> None:
        say(info(self._server))

    def _who_has(self, client: Client, say: Say, futures: list[int] | None) -> None:
        task_of = self._scheduling.holders.task_of
        owners = {worker.slot: number for number, worker in self._scheduling.members.workers.items()}
        found = {}
        for future in task_of if futures is None else futures:
            value = self._scheduling.blocks.values.get(task_of.get(future, -1))
            extents = value.extents + value.borrowed if isinstance(value, Stored) else ()
            slots = {self._server.arena.slot_of(offset) for offset, _ in extents}
            found[future] = tuple(sorted(owners[slot] for slot in slots if slot in owners))
        say(found)

    def _versions(self, client: Client, say: Say) -> None:
        here = versions()  # workers are forked from this very process
        say({"scheduler": here, "workers": dict.fromkeys(self._scheduling.members.workers, here)})

    def _logs(self, client: Client, say: Say) -> None:
        say(self._server.journal.logs())

    # ------------------------------------------------------------ doing

    def _run(self, client: Client, say: Say, blob: Value, names: Sequence[int | str] | None) -> None:
        """Once those workers serve that are being started: just after its start a cluster has no others."""
        members = self._scheduling.members
        try:
            numbers = None if names is None else members.find(names)
        except KeyError as error:
            raise ConfigError(f"there is no worker {error.args[0]!r}; there are {sorted(members.workers)}") from None
        self._scheduling.blocks.ref(blob)
        self._waiting.append(
            (
                lambda: all(worker.state != STARTING for worker in members.workers.values()),
                lambda: self._run_now(client, say, blob, numbers),
            )
        )

    def _run_now(self, client: Client, say: Say, blob: Value, numbers: Sequence[int] | None) -> None:
        blocks = self._scheduling.blocks
        chosen = [worker for worker in self._crew.serving() if numbers is None or worker.number in numbers]
        results: dict[int, tuple[Value | None, bytes | None]] = {}

        def answered(number: int, value: Value | None, error: bytes | None) -> None:
            results[number] = value, error
            if isinstance(value, Stored):
                blocks.ref(value)
                if client.number in self._scheduling.holders.clients:
                    self._results.setdefault(client, []).append(value)
                else:
                    blocks.unref(value)
            if len(results) == len(chosen):
                blocks.unref(blob)
                say(results)

        for worker in chosen:
            self._crew.run(worker, blob, answered)
        if not chosen:
            blocks.unref(blob)
            say(results)

    def _setup(self, client: Client, say: Say, blob: Value) -> None:
        self._scheduling.blocks.ref(blob)
        self._crew.setups.append(blob)
        self._run(client, say, blob, None)

    def _restart(self, client: Client, say: Say) -> None:
        holders = self._scheduling.holders
        workers = self._scheduling.members.workers
        old = set(workers.values())
        self._scheduling.cancel(list(holders.task_of))
        self._crew.restart()
        self._when(lambda: self._are_serving(self._crew.target) and old.isdisjoint(workers.values()), say)

    def _scale(self, client: Client, say: Say, n: int) -> None:
        self._crew.scale(n)
        say(None)

    def _adapt(self, client: Client, say: Say, minimum: int, maximum: int) -> None:
        self._crew.adapt(minimum, maximum)
        say(None)

    def _wait_for_workers(self, client: Client, say: Say, n: int) -> None:
        self._when(lambda: self._are_serving(n), say)

    def _fire_and_forget(self, client: Client, say: Say, futures: list[int]) -> None:
        self._scheduling.futures.detach(futures)
        say(None)

    def _shutdown(self, client: Client, say: Say) -> None:
        say(None)
        self._server.end(f"it was shut down by client {client.name or client.number}")

    def _are_serving(self, n: int) -> bool:
        return sum(worker.state == SERVING for worker in self._scheduling.members.workers.values()) >= n

    def _when(self, condition: Callable[[], bool], say: Say) -> None:
        self._waiting.append((condition, lambda: say(None)))
