from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.engine.cluster.imagined import Cluster, ImaginedClient
from tilework.engine.cluster.wire.messages import Cancel, Follow, Retry, TaskOptions
from tilework.engine.local.states import RELEASED

FORMS = st.integers(0, 2)


class Stories(RuleBasedStateMachine):
    """Clients, workers and their ends, in any order: every value is right, and in the end nothing is left."""

    @initialize(memory=st.sampled_from([300, 1000, 1 << 30]), workers=st.integers(0, 3))
    def begin(self, memory: int, workers: int) -> None:
        self.cluster = Cluster(memory)
        for _ in range(workers):
            self.cluster.join()
        self.cluster.connect()

    @invariant()
    def turn(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.turn()

    def client(self, data: st.DataObject) -> ImaginedClient:
        return data.draw(st.sampled_from(self.cluster.clients))

    def futures(self, data: st.DataObject, client: ImaginedClient, most: int = 3) -> list[int]:
        held = sorted(client.symbols)
        return data.draw(st.lists(st.sampled_from(held), max_size=most, unique=True)) if held else []

    def usable(self, data: st.DataObject, client: ImaginedClient) -> tuple[int, ...]:
        wholes = [f for f, symbol in client.symbols.items() if symbol is None]
        return tuple(f for f in self.futures(data, client) if f not in wholes)

    # ------------------------------------------------------------ clients

    @precondition(lambda self: len(self.cluster.clients) < 3)
    @rule()
    def connect(self) -> None:
        self.cluster.connect()

    @precondition(lambda self: len(self.cluster.clients) > 1)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        self.cluster.vanish(self.client(data))

    @precondition(lambda self: self.cluster.clients)
    @rule(data=st.data(), n=st.integers(1, 4), priority=st.integers(-1, 1), retries=st.integers(0, 1))
    def submit(self, data: st.DataObject, n: int, priority: int, retries: int) -> None:
        client = self.client(data)
        client.submit([self.usable(data, client) for _ in range(n)], TaskOptions(priority, retries))

    @precondition(lambda self: self.cluster.clients)
    @rule(data=st.data(), n=st.integers(1, 6), watched=st.booleans())
    def submit_graph(self, data: st.DataObject, n: int, watched: bool) -> None:
        client = self.client(data)
        held = dict(enumerate(self.usable(data, client)[:n]))
        deps = [[] if t in held or not t else data.draw(st.lists(st.integers(0, t - 1), max_size=2)) for t in range(n)]
        outputs = data.draw(st.lists(st.integers(0, n - 1), max_size=3))
        client.submit_graph(deps, outputs, held, watched)

    @precondition(lambda self: self.cluster.clients)
    @rule(data=st.data(), form=FORMS)
    def scatter(self, data: st.DataObject, form: int) -> None:
        self.client(data).scatter(form)

    @precondition(lambda self: self.cluster.clients)
    @rule(data=st.data())
    def get(self, data: st.DataObject) -> None:
        client = self.client(data)
        client.get(self.futures(data, client, most=2))

    @precondition(lambda self: any(client.looks for client in self.cluster.clients))
    @rule()
    def unpin(self) -> None:
        next(client for client in self.cluster.clients if client.looks).unpin()

    @precondition(lambda self: self.cluster.clients)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        client = self.client(data)
        client.release(self.futures(data, client))

    @precondition(lambda self: len(self.cluster.clients) > 1)
    @rule(data=st.data())
    def follow(self, data: st.DataObject) -> None:
        client, other = self.client(data), self.client(data)
        met = [future for future in self.futures(data, other) if future not in client.symbols]
        for future in met:
            client.symbols[future], client.states[future] = self.cluster.symbols[future], "pending"
        client.say(Follow(met))

    @precondition(lambda self: self.cluster.clients)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        client = self.client(data)
        futures = self.futures(data, client)
        for future in futures:
            for one in self.cluster.clients:
                if future in one.states:
                    one.states[future] = "cancelled"
        self.cluster.scheduling.cancel(Cancel(futures).futures)

    @precondition(lambda self: self.cluster.clients)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        client = self.client(data)
        futures = [f for f in self.futures(data, client) if client.states[f] in ("error", "cancelled")]
        client.states.update(dict.fromkeys(futures, "pending"))
        self.cluster.retried = True
        client.say(Retry(futures))

    @precondition(lambda self: self.cluster.clients)
    @rule(data=st.data())
    def fire_and_forget(self, data: st.DataObject) -> None:
        self.cluster.scheduling.futures.detach(self.futures(data, self.client(data)))

    # ------------------------------------------------------------ workers

    @precondition(lambda self: len(self.cluster.workers) < 4)
    @rule()
    def join(self) -> None:
        self.cluster.join()

    @precondition(lambda self: self.cluster.workers)
    @rule(data=st.data())
    def listen(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.cluster.workers)).listen()

    @precondition(lambda self: any(worker.works for worker in self.cluster.workers))
    @rule(
        data=st.data(),
        stop=st.one_of(st.none(), st.integers(0, 3)),
        how=st.sampled_from(["done", "fail", "return", "die"]),
    )
    def run(self, data: st.DataObject, stop: int | None, how: str) -> None:
        busy = [worker for worker in self.cluster.workers if worker.works]
        data.draw(st.sampled_from(busy)).run(stop, how, lambda: data.draw(FORMS))

    @precondition(lambda self: self.cluster.workers)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.cluster.workers))
        worker.die(worker.works[0].tasks[0] if worker.works else -1)

    @precondition(lambda self: any(not worker.leaving for worker in self.cluster.workers))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        staying = [worker for worker in self.cluster.workers if not worker.leaving]
        self.cluster.scheduling.worker_leaves(data.draw(st.sampled_from(staying)).member)

    @precondition(lambda self: any(worker.leaving and not worker.works for worker in self.cluster.workers))
    @rule()
    def left(self) -> None:
        next(worker for worker in self.cluster.workers if worker.leaving and not worker.works).die()

    @rule()
    def disk_fills_or_empties(self) -> None:
        self.cluster.disk_full = not self.cluster.disk_full
        if not self.cluster.disk_full:
            self.cluster.scheduling.dispatch.disk_problem = None
            self.cluster.scheduling.core.unwritable.clear()

    # ------------------------------------------------------------ the end

    def teardown(self) -> None:
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.disk_full = False
        cluster.scheduling.dispatch.disk_problem = None
        cluster.scheduling.core.unwritable.clear()
        for worker in [worker for worker in cluster.workers if worker.leaving]:
            worker.die()
        cluster.join()
        cluster.settle()
        for client in cluster.clients:
            pending = [f"{future:x}" for future, state in client.states.items() if state == "pending"]
            assert not pending, f"{pending}: all that can run has run, and clients know it"
        for client in list(cluster.clients):
            cluster.vanish(client)
        cluster.settle()
        assert nothing_left(cluster)


def nothing_left(cluster: Cluster) -> bool:
    here = cluster.scheduling
    futures, blocks, holders = here.futures, here.blocks, here.holders
    empty: list[Any] = [
        futures.calls, futures.failures, futures.retries, futures.graphs, futures.bound, futures.awaited, futures.ended,
        blocks.values, holders.task_of, holders.future_of, holders.aliases, holders.followers, holders.nobody.held,
        here.members.batches, cluster.memory.symbols, cluster.memory.disk, here.core.pins, here.core.running,
    ]  # fmt: skip
    left = [found for found in empty if found]
    assert not left, left
    assert list(futures.functions.values()) in ([], [here.fetching.loader])
    assert set(here.core.states) <= {RELEASED}
    assert (here.core.held, here.core.on_disk, here.core.reserved, blocks.arena_bytes) == (0, 0, 0, 0)
    return True


TestStories = Stories.TestCase
TestStories.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
