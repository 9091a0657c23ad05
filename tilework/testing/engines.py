"""The conformance suite of engines: subclass it, say how yours is made, and pytest runs the rest.

Tasks may run in other processes: what they do is seen by their values, and by lines that they write to a file.
"""

from __future__ import annotations

import operator
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from tilework.base.errors import MemoryBudgetError
from tilework.engine.events import BatchFinished, RunFinished, RunStarted
from tilework.engine.protocol import Engine, RemoteEngine, RunOptions
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.blocks import AxisChunks
from tilework.plan.ops import BlockFunction, Call, Slot
from tilework.plan.stages import BlockPlace, BlockSegment, Calls, Output, Program, Stage

S = [Slot(i) for i in range(6)]


def call(fn: Callable[..., Any], *args: Any, label: str = "f", inputs: int | None = None, **kwargs: Any) -> Call:
    """A delayed call. ``args`` are Slots and values; ``inputs`` defaults to the number of Slots among them."""
    n = sum(isinstance(arg, Slot) for arg in args) if inputs is None else inputs
    flat = not kwargs and not any(isinstance(arg, list | tuple | dict) for arg in args)
    return Call(fn, args, kwargs, (None,) * n, label, label, flat)  # type: ignore[arg-type]


def graph_of(
    deps: Sequence[Sequence[int]],
    calls: Sequence[Call] | None = None,
    outputs: Sequence[int] = (),
    out: Sequence[int] | None = None,
    work: Sequence[int] | None = None,
    rank: Sequence[int] | None = None,
    resident: int = 0,
) -> TaskGraph:
    """One stage of calls: task ``t`` needs ``deps[t]``, all smaller than ``t``."""
    n = len(deps)
    calls = calls or [call(lambda *inputs: None) for _ in deps]
    indptr = np.cumsum([0, *map(len, deps)]).astype(np.int64)
    flat = np.array([block for blocks in deps for block in blocks], np.int32)
    zeros = np.zeros(n, np.int64)
    out_bytes = zeros if out is None else np.array(out, np.int64)
    work_bytes = zeros if work is None else np.array(work, np.int64)
    stage = Stage(
        "calls", (n,), (), Calls(list(calls), indptr, np.zeros_like(flat), flat.astype(np.int64)), out_bytes, work_bytes
    )
    return TaskGraph(
        [stage],
        np.array([0, n]),
        indptr,
        flat,
        out_bytes,
        work_bytes,
        np.arange(n, dtype=np.int32) if rank is None else np.array(rank, np.int32),
        np.array(outputs, np.int32),
        resident,
    )


# ---------------------------------------------------------------- what tasks do


def identity(x: Any) -> Any:
    return x


def arguments(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


def block_of(task: int, weight: int, *inputs: np.ndarray) -> np.ndarray:
    """A block of ``weight`` kB whose contents depend on everything before it."""
    total = task + sum(int(x[0]) + 3 * int(x[-1]) for x in inputs)
    return np.full(128 * weight + 1, total % 1_000_003)


def ramp(block_place: BlockPlace) -> np.ndarray:
    (k,) = block_place.index
    return np.arange((3, 2)[k]) + 10 * k


def ramp_that_breaks(block_place: BlockPlace) -> np.ndarray:
    return np.zeros(3, int) if block_place.index == (0,) else np.zeros(1 // 0)


def note(path: Path, what: Any, *inputs: Any) -> Any:
    """Leave a line in a file."""
    with path.open("a") as file:
        file.write(f"{what}\n")
    return what


def shaky(path: Path, failures: int, x: int) -> int:
    note(path, x)
    if len(path.read_text().splitlines()) <= failures:
        raise OSError("try again")
    return x * 10


def sum_of_ends(*blocks: np.ndarray) -> float:
    return float(sum(block[0] for block in blocks))


def leave() -> None:
    sys.exit(3)


class Mine(Exception):
    """Cannot be made again from its args."""

    def __init__(self, code: int, *, text: str) -> None:
        super().__init__(text)
        self.code = code


def inner(x: int) -> int:
    raise Mine(x, text="broken")


def outer(x: int) -> int:
    return inner(x)


# ---------------------------------------------------------------- the suite


class EngineSuite:
    """What every :class:`~tilework.engine.protocol.Engine` keeps to.

    Subclasses define the fixture ``engine``. ``workers`` is how many it is asked for.

    Examples
    --------
    >>> import pytest
    >>> from tilework.engine.local.sync import SyncEngine
    >>> class TestSync(EngineSuite):
    ...     workers = 1
    ...
    ...     @pytest.fixture
    ...     def engine(self):
    ...         return SyncEngine()
    """

    workers = 2

    @pytest.fixture
    def engine(self) -> Engine | RemoteEngine:
        raise NotImplementedError

    def options(self, budget: int = 10**9, **more: Any) -> RunOptions:
        return RunOptions(self.workers, budget, **more)

    # ------------------------------------------------------------ values

    @pytest.mark.parametrize("seed", range(6))
    def test_any_graph_gives_what_it_gives_one_by_one(self, engine: Any, seed: int) -> None:
        """Small and large blocks, sizes announced or not, some of them needed late, with a budget that spills."""
        random = Random(seed)
        n = 120
        deps = [random.sample(range(t), min(t, random.choice([0, 1, 2, 3]))) for t in range(n)]
        weights = [random.choice([0, 1, 5, 20]) for _ in range(n)]
        expected: list[np.ndarray] = []
        for t in range(n):
            expected.append(block_of(t, weights[t], *[expected[d] for d in deps[t]]))
        calls = [call(block_of, t, weights[t], *S[: len(deps[t])]) for t in range(n)]
        out = [1024 * w + 8 for w in weights] if seed % 2 else None
        outputs = random.sample(range(n), 5)
        graph = graph_of(deps, calls, outputs, out=out)
        results = engine.run(graph, self.options((200_000, 400_000, 10**9)[seed % 3]))
        for t, value in zip(outputs, results, strict=True):
            np.testing.assert_array_equal(value, expected[t])

    def test_slots_are_filled_wherever_they_stand(self, engine: Any) -> None:
        calls = [
            call(identity, "a"),
            call(identity, "b"),
            call(arguments, [S[0], (S[1], 1)], {"k": S[1], S[0]: 2}, inputs=2, z=[S[0]]),
            call(arguments, 7, S[1], S[0], "c"),
            call(arguments, x=1),
        ]
        results = engine.run(graph_of([[], [], [0, 1], [0, 1], []], calls, [2, 3, 4]), self.options())
        assert results == [
            ((["a", ("b", 1)], {"k": "b", "a": 2}), {"z": ["a"]}),
            ((7, "b", "a", "c"), {}),
            ((), {"x": 1}),
        ]

    def test_no_task_one_task_and_the_same_output_twice(self, engine: Any) -> None:
        one, none, small = np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int32)
        empty = TaskGraph([], one, one, small, none, none, small, small)
        assert engine.run(empty, self.options()) == []
        assert engine.run(graph_of([[]], [call(identity, None)], [0, 0]), self.options()) == [None, None]

    def test_many_small_tasks(self, engine: Any) -> None:
        n = 2000
        graph = graph_of([[]] * n, [call(identity, i) for i in range(n)], range(n))
        assert engine.run(graph, self.options()) == list(range(n))
        deps: list[list[int]] = [[]] * n + [[2 * i, 2 * i + 1] for i in range(n - 1)]
        calls = [call(identity, i) for i in range(n)] + [call(operator.add, S[0], S[1])] * (n - 1)
        assert engine.run(graph_of(deps, calls, [2 * n - 2]), self.options()) == [sum(range(n))]
        deps = [[]] + [[i] for i in range(n - 1)]
        calls = [call(identity, 0)] + [call(operator.add, S[0], 1)] * (n - 1)
        assert engine.run(graph_of(deps, calls, [n - 1]), self.options()) == [n - 1]

    def ramps(self, function: Callable[..., Any]) -> TaskGraph:
        """Two blocks of a program."""
        chunks = AxisChunks((3, 2))
        made = BlockSegment(BlockFunction(function, (), place=True), (), np.dtype(np.int64), ((chunks, 0),), "ramp")
        out = np.array([24, 16])
        stage = Stage("ramp", (2,), (), Program((chunks,), (), (made,), (Output(0),)), out, 0 * out)
        return TaskGraph(
            [stage], np.array([0, 2]), np.zeros(3, np.int64), np.zeros(0, np.int32), out, 0 * out,
            np.arange(2, dtype=np.int32), np.arange(2, dtype=np.int32),
        )  # fmt: skip

    def test_blocks_of_programs_come_from_the_kernels(self, engine: Any) -> None:
        first, second = engine.run(self.ramps(ramp), self.options())
        np.testing.assert_array_equal(first, [0, 1, 2])
        np.testing.assert_array_equal(second, [10, 11])
        with pytest.raises(ZeroDivisionError) as caught:
            engine.run(self.ramps(ramp_that_breaks), self.options())
        assert caught.value.__notes__ == ["in operation 'ramp', block (1,)"]

    # ------------------------------------------------------------ errors and retries

    def test_what_a_task_raises_is_what_the_caller_sees(self, engine: Any) -> None:
        graph = graph_of([[], [0]], [call(identity, 5), call(outer, S[0], label="outer")], [1])
        with pytest.raises(Mine, match="broken") as caught:
            engine.run(graph, self.options())
        assert caught.value.code == 5
        assert caught.value.__notes__ == ["in operation 'outer'"]
        names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        assert names[-2:] == ["outer", "inner"]
        assert not {"work", "_run"} & set(names), "the engine's own loop is no business of the user"

    def test_what_needs_something_that_failed_does_not_run(self, engine: Any, tmp_path: Path) -> None:
        path = tmp_path / "notes"
        calls = [call(note, path, 0), call(inner, 1), *[call(note, path, i, S[0]) for i in range(50)]]
        with pytest.raises(Mine):
            engine.run(graph_of([[], []] + [[1]] * 50, calls, range(52)), self.options())
        assert not path.exists() or path.read_text() == "0\n"
        assert engine.run(graph_of([[]], [call(identity, 1)], [0]), self.options()) == [1], "it goes on"

    def test_retries(self, engine: Any, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        calls = [*[call(identity, i) for i in (1, 2, 3)], call(shaky, path, 2, S[0])]
        graph = graph_of([[], [], [], [1]], calls, [0, 3, 2])
        assert engine.run(graph, self.options(retries=2)) == [1, 20, 3]
        assert path.read_text().split() == ["2"] * 3

    def test_retries_run_out(self, engine: Any, tmp_path: Path) -> None:
        path = tmp_path / "attempts"
        graph = graph_of([[]], [call(shaky, path, 99, 1, label="never")], [0])
        with pytest.raises(OSError, match="try again") as caught:
            engine.run(graph, self.options(retries=3))
        assert path.read_text().split() == ["1"] * 4
        assert caught.value.__notes__ == ["in operation 'never'"], "one note, not one per attempt"

    def test_system_exit_in_a_task_ends_the_run_and_nothing_else(self, engine: Any) -> None:
        with pytest.raises(SystemExit):
            engine.run(graph_of([[], []], [call(leave), call(identity, 1)], [0, 1]), self.options())
        assert engine.run(graph_of([[]], [call(identity, 1)], [0]), self.options()) == [1]

    def test_a_listener_that_raises_ends_the_run(self, engine: Any) -> None:
        def listener(event: Any) -> None:
            if isinstance(event, BatchFinished):
                raise ValueError("listener")

        with pytest.raises(ValueError, match="listener"):
            engine.run(graph_of([[]] * 5, [call(identity, 1)] * 5, [0]), self.options(), listener)

    # ------------------------------------------------------------ memory

    def test_a_plan_that_cannot_fit_is_refused_before_it_starts(self, engine: Any, tmp_path: Path) -> None:
        path = tmp_path / "ran"
        graph = graph_of([[], []], [call(note, path, 1), call(note, path, 2, label="huge")], out=[10, 2000])
        with pytest.raises(MemoryBudgetError, match=r"'huge' needs 2\.0 KiB.*budget is 1000 B"):
            engine.run(graph, self.options(1000))
        assert not path.exists()

    def test_results_and_inputs_that_do_not_fit_at_once(self, engine: Any) -> None:
        size, many = 2**20, 24
        make = [call(np.full, size // 8, float(i)) for i in range(many)]
        join = [call(sum_of_ends, *S) for _ in range(many // 6)]
        deps: list[list[int]] = [[]] * many + [[i, i + 4, i + 8, i + 12, i + 16, i + 20] for i in range(many // 6)]
        graph = graph_of(deps, make + join, range(many, many + many // 6), out=[size] * many + [24] * (many // 6))
        assert engine.run(graph, self.options(8 * size)) == [60.0 + 6 * i for i in range(many // 6)]

    # ------------------------------------------------------------ events

    def test_listeners_hear_of_every_task_once(self, engine: Any) -> None:
        n = 500
        graph = graph_of([[]] * n, [call(identity, i) for i in range(n)], range(n))
        events: list[Any] = []
        busy = threading.Lock()

        def listener(event: Any) -> None:
            assert busy.acquire(blocking=False), "two calls at a time"
            events.append(event)
            busy.release()

        engine.run(graph, self.options(10**6), listener)
        first, *batches, last = events
        assert isinstance(first, RunStarted)
        assert (first.graph, first.engine, first.workers, first.budget) == (graph, engine.name, self.workers, 10**6)
        assert sorted(t for batch in batches for t in batch.tasks) == list(range(n))
        assert all(first.time <= b.start <= b.stop <= last.time for b in batches)
        assert len(batches) < n / 2, "reports are per batch"
        assert isinstance(last, RunFinished)
        assert last.error is None

    def test_the_finished_event_carries_the_error(self, engine: Any) -> None:
        events: list[Any] = []
        graph = graph_of([[], []], [call(identity, 1), call(inner, 1)], [0, 1])
        with pytest.raises(Mine) as caught:
            engine.run(graph, self.options(), events.append)
        assert events[-1].error is caught.value
