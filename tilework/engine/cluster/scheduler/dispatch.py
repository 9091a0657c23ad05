"""From the core to workers and back: batches go out, results come in. Pure: messages are queued, nobody waits.

At the end of each turn of the server's loop :meth:`Dispatch.hand_out` asks the core for work for whoever has none, and
for more where tasks are short. The core is asked with ``patient=False``: what does not fit is made to fit by writing
blocks to disk, by the very worker that would otherwise be idle.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tilework.base.errors import StorageError
from tilework.base.sizes import format_bytes
from tilework.engine.cluster.scheduler.futures import Futures
from tilework.engine.cluster.scheduler.members import Members, UnderWay, Worker
from tilework.engine.cluster.store.values import dump_error
from tilework.engine.cluster.wire.messages import (
    Batch,
    BlockTask,
    CallTask,
    Failed,
    Finished,
    Forget,
    Forgotten,
    Function,
    GiveBack,
    Graph,
    Loaded,
    Returned,
    SpillBlocks,
    Spilled,
    Unviewed,
    Value,
)
from tilework.engine.local.states import HELD, Run, Spill

BATCH_SECONDS: Final = 5e-3  # handing over and waking up takes some tenths of a millisecond
BATCH_TASKS: Final = 1000
SHORT_SECONDS: Final = 20e-3  # what a worker has left to do, if it shall be given more beforehand
SMALL_BYTES: Final = 64 << 10  # of a result that is made even if nothing can be written to disk
PATIENCE_SECONDS: Final = 10e-3  # before what was not started is asked back: twice what a batch should take


class Dispatch:
    """Who runs what."""

    def __init__(self, futures: Futures, members: Members) -> None:
        self._futures, self._members = futures, members
        self._core, self._blocks = futures.core, futures.blocks
        self.idle = False  # whether somebody had nothing to do when last looked, while others had
        self.disk_problem: str | None = None  # why nothing can be written to disk
        self.bytes_made = self.bytes_read_back = self.retried = 0  # so far

    # ------------------------------------------------------------ out

    def hand_out(self, now: float) -> None:
        """Give work to whoever can take some."""
        core = self._core
        if not core.unfinished and core.held <= core.limit:
            self.idle = False
            return
        workers = [w for w in self._members.workers.values() if w.room > 0]
        self.idle = False
        while workers:
            workers.sort(key=_load)
            worker = workers[0]
            if not self._give(worker, now):
                self.idle = True
                workers.pop(0)
            elif worker.room <= 0:
                workers.pop(0)
        if not self.idle and core.has_ready:
            for worker in self._members.workers.values():
                while worker.room > -worker.threads and self._is_short(worker) and self._give(worker, now, True):
                    pass

    def _give(self, worker: Worker, now: float, ahead: bool = False) -> bool:
        """Ask the core for one worker; False if there is nothing for it."""
        credit = worker.credit
        step = self._core.next(credit, patient=ahead)
        if isinstance(step, Run):
            if self.disk_problem is not None and self._too_much(step):
                self._refuse(credit, step)
                return True
            batch = self._members.give(worker, credit, step, now)
            worker.channel.send(self._batch(worker, batch))
            return True
        if isinstance(step, Spill):
            self._spill(worker, credit, step.blocks)
            return True
        return False

    def _too_much(self, run: Run) -> bool:
        """Whether a batch, which the core hands out since nothing can be spilled, makes things worse."""
        core = self._core
        if core.held + core.reserved <= core.limit:
            return False
        frees = sum(core.sizes[b] for b in set(core.inputs(run.tasks[0])) if core.uses[b] == 1)
        return core.sizes[run.tasks[0]] > max(frees, SMALL_BYTES)

    def _refuse(self, credit: int, run: Run) -> None:
        core, task = self._core, run.tasks[0]
        error = StorageError(
            f"the task {self._futures.label(task)!r} was not run: the cluster holds {format_bytes(core.held)} and may "
            f"hold {format_bytes(core.limit)}, and what is not needed now cannot be written to disk: "
            f"{self.disk_problem}"
        )
        core.returned(credit, len(run.tasks))
        core.finished(credit, [], 0.0)
        self._futures.fail(core.cancel([task]), dump_error(error))

    def _is_short(self, worker: Worker) -> bool:
        """Whether what a worker has will be done soon, as far as one knows. A cell has one batch at a time."""
        if worker.room > 0 or not worker.batches or worker.suspects or worker.blocked:
            return False
        seconds, stage_of = self._core.seconds, self._core.stage_of
        left = sum(len(b.run.tasks) * seconds[stage_of[b.run.tasks[0]]] for b in worker.batches.values() if b.run.tasks)
        return left < SHORT_SECONDS * worker.threads

    def ask_back(self, now: float) -> None:
        """Somebody has nothing to do: ask for what others have not started."""
        for worker, numbers in self._members.ask_back(now, PATIENCE_SECONDS):
            worker.channel.send(GiveBack(numbers))

    def _batch(self, worker: Worker, under_way: UnderWay) -> Batch:
        """The message, and before it what the worker does not know yet."""
        run = under_way.run
        tasks = run.tasks
        work: Sequence[CallTask | BlockTask | None] = list(map(self._futures.calls.get, tasks))
        if None in work:
            work = [self._block_task(task, under_way) if w is None else w for task, w in zip(tasks, work, strict=True)]
            needs: list[Sequence[int]] = list(map(self._core.inputs, tasks))
        else:
            needs = [call.inputs for call in work]  # type: ignore[union-attr]
        inputs: dict[int, Value] = {}
        inner: dict[int, int] = {}
        if any(needs):
            self._find_inputs(tasks, needs, inputs, inner)
        self._introduce(worker, work)  # type: ignore[arg-type]
        return Batch(under_way.number, list(tasks), work, inputs, inner, run.allowance)  # type: ignore[arg-type]

    def _block_task(self, task: int, under_way: UnderWay) -> BlockTask:
        graph = self._futures.graph_of(task)
        assert graph is not None
        local = task - graph.base
        size = graph.scratch.get(local)
        if size is None:
            return BlockTask(graph.number, local)
        scratch = self._blocks.new_scratch(size)
        under_way.scratch.append(scratch)
        return BlockTask(graph.number, local, scratch)

    def _find_inputs(
        self, tasks: list[int], needs: Sequence[Sequence[int]], inputs: dict[int, Value], inner: dict[int, int]
    ) -> None:
        """What comes from outside of a batch, and what nobody outside of it needs."""
        values, uses = self._blocks.values, self._core.uses
        own = set(tasks)
        edges: dict[int, int] = {}
        for blocks in needs:
            for block in blocks:
                if block not in own:
                    inputs[block] = values[block]
                else:
                    edges[block] = edges.get(block, 0) + 1
            for block in set(blocks) & own if own else ():
                inner[block] = inner.get(block, 0) + 1
        for block, n in edges.items():
            if uses[block] != n:
                del inner[block]

    def _introduce(self, worker: Worker, work: Sequence[CallTask | BlockTask]) -> None:
        """Tell a worker of functions and graphs that it has not met."""
        for function in {todo.function for todo in work if type(todo) is CallTask} - worker.functions:
            worker.functions.add(function)
            found = self._futures.functions[function]
            worker.channel.send(Function(function, found.blob, found.name))
        for number in {todo.graph for todo in work if type(todo) is BlockTask} - worker.graphs.keys():
            graph = self._futures.graphs[number]
            worker.graphs[number] = graph.payload
            self._blocks.ref(graph.payload)
            worker.channel.send(Graph(number, graph.payload, graph.base, graph.held))

    def forget(self) -> None:
        """Tell workers what they will not need any more."""
        functions, graphs = self._futures.obsolete
        if functions or graphs:
            for worker in self._members.workers.values():
                known = worker.functions.intersection(functions), worker.graphs.keys() & graphs
                if known[0] or known[1]:
                    worker.functions -= known[0]
                    worker.forgetting.update((number, worker.graphs.pop(number)) for number in known[1])
                    worker.channel.send(Forget(tuple(known[0]), tuple(known[1])))
            functions.clear()
            graphs.clear()

    def forgotten(self, worker: Worker, message: Forgotten) -> None:
        """A worker does not look at a graph any more."""
        self._blocks.unref(worker.forgetting.pop(message.graph))

    # ------------------------------------------------------------ in

    def finished(self, worker: Worker, message: Finished | Failed) -> None:
        """A batch is done, or a task of it raised."""
        found = self._members.batches.get(message.batch)
        if found is None:  # all of it was given back
            return
        _, batch = found
        core, futures = self._core, self._futures
        run, results = batch.run, message.results
        if message.viewed:
            self._viewed(worker, message.viewed)
        tasks = run.tasks[: len(results)]
        seconds = message.stop - message.start
        errored: list[int] = []
        if type(message) is Failed:
            failing = run.tasks[len(results)]
            attempt, errored = core.failed(batch.credit, message.sizes, seconds, self._retries(failing))
            if attempt is None:
                worker.suspects.discard(failing)
            else:
                self.retried += 1
        else:
            core.finished(batch.credit, message.sizes, seconds)
        self._members.end(worker, batch)
        worker.done += len(tasks)
        self.bytes_made += sum(message.sizes)
        self._progress(worker, tasks, message.start, message.stop)
        futures.finished(tasks, results, message.sizes)
        if type(message) is Failed:
            futures.fail(errored, message.error)
        if worker.suspects:
            worker.suspects.difference_update(tasks)
        self.free_scratch(batch)

    def _retries(self, task: int) -> int:
        own = self._futures.retries.get(task)
        if own is not None:
            return own
        graph = None if task in self._futures.calls else self._futures.graph_of(task)
        return graph.retries if graph is not None else 0

    def free_scratch(self, batch: UnderWay) -> None:
        """Space that became no task's value is free; the others count it by themselves."""
        for scratch in batch.scratch:
            self._blocks.unref(scratch)

    def _progress(self, worker: Worker, tasks: list[int], start: float, stop: float) -> None:
        if not any(graph.watched for graph in self._futures.graphs.values()):
            return
        by_graph: dict[int, list[int]] = {}
        for task in tasks:
            graph = self._futures.graph_of(task)
            if graph is not None and graph.watched:
                by_graph.setdefault(graph.number, []).append(task - graph.base)
        for number, local in by_graph.items():
            self._futures.progress(self._futures.graphs[number], worker.number, local, start, stop)

    def returned(self, worker: Worker, message: Returned) -> None:
        """Tasks that were not started."""
        found = self._members.batches.get(message.batch)
        if found is None:
            return
        _, batch = found
        self._core.returned(batch.credit, message.n)
        if not batch.run.tasks:
            self._core.finished(batch.credit, [], 0.0)
            self._members.end(worker, batch)
            self.free_scratch(batch)

    def loaded(self, message: Loaded) -> None:
        """Blocks are back in the arena."""
        found = self._members.batches.get(message.batch)
        if found is not None:
            self._core.loaded(found[1].credit)
            self.bytes_read_back += sum(self._core.sizes[block] for block in message.values)
            for block, value in message.values.items():
                self._blocks.loaded(block, value)

    def _viewed(self, worker: Worker, blocks: Sequence[int]) -> None:
        """A worker goes on to look at blocks, and at arguments (``~task``)."""
        alive = [block for block in blocks if block >= 0 and self._core.states[block] == HELD]
        self._core.pin(alive)
        worker.viewed += alive
        for block in blocks:
            if block < 0 and block not in worker.viewed_arguments:
                worker.viewed_arguments[block] = self._futures.calls[~block].args
                self._blocks.ref(worker.viewed_arguments[block])

    def unviewed(self, worker: Worker, message: Unviewed) -> None:
        """A worker does not look at these any more."""
        gone = []
        for block in message.tasks:
            if block in worker.viewed_arguments:
                self._blocks.unref(worker.viewed_arguments.pop(block))
            while block in worker.viewed:
                worker.viewed.remove(block)
                gone.append(block)
        self._core.unpin(gone)

    # ------------------------------------------------------------ disk

    def _spill(self, worker: Worker, credit: int, blocks: list[int]) -> None:
        plan, stay = self._blocks.plan_spill(blocks)
        if stay:
            self._core.kept(credit, stay)
        if plan:
            worker.spilling = credit
            worker.free.remove(credit)
            worker.channel.send(SpillBlocks(plan))

    def spilled(self, worker: Worker, message: Spilled) -> None:
        """Blocks are on disk, or not."""
        credit = worker.spilling
        assert credit is not None
        pins = self._core.pins
        done = [(task, place) for task, place in message.done if task not in pins]
        looked_at = [task for task, _ in message.done if task in pins]  # by a client, since a moment ago
        self._core.spilled(credit, [task for task, _ in done])
        if looked_at:
            self._core.kept(credit, looked_at, for_good=False)
        if message.kept:
            self._core.kept(credit, message.kept)
        for task, place in done:
            self._blocks.spilled(task, place)
        for task in looked_at + message.kept:
            self._blocks.kept(task)
        worker.spilling = None
        worker.free.append(credit)
        if message.error is not None:
            self.disk_problem = message.error


def _load(worker: Worker) -> float:
    return len(worker.batches) / worker.threads
