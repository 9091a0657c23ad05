"""From the number of a task to its block: find the call or program, gather the inputs, run it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeAlias

from tilework.engine.kernels import Context, run_stage
from tilework.engine.local.sizeof import sizeof
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.ops import Call, Slot
from tilework.plan.stages import (
    Assembled,
    Calls,
    ExplicitMap,
    Gathered,
    Held,
    LinearMap,
    Program,
    Stage,
    StageInput,
    TileSegment,
)

# How many blocks of an input are needed for the block with this index in the stage's grid, and this flat number.
_Count: TypeAlias = Callable[[tuple[int, ...], int], int]


class Executor:
    """Runs tasks, one after another. One per worker thread.

    Parameters
    ----------
    graph
        The tasks.
    stage_of
        The stage of each task.
    values
        Finished blocks by task, shared by all workers. Inputs are read from it, results written to it.
    context
        What the kernels keep for this thread.
    """

    def __init__(self, graph: TaskGraph, stage_of: Sequence[int], values: dict[int, Any], context: Context) -> None:
        self._graph, self._stage_of, self._values, self._context = graph, stage_of, values, context
        self._offsets: list[int] = graph.offsets.tolist()
        self._indptr, self._deps = graph.indptr.data, graph.deps.data
        self._counts: dict[int, list[_Count]] = {}  # by stage: for each of its inputs

    def run(self, todo: deque[int], sizes: list[int], allowance: int) -> BaseException | None:
        """Run tasks from the left of ``todo``; append the size of each block to ``sizes``.

        Ends when ``todo`` is empty, or the blocks weigh more than ``allowance`` together. Returns what a task raised:
        it is the one after the ``len(sizes)`` that succeeded. Another thread may take tasks from the right at any time.
        """
        take, add, values, indptr, deps = todo.popleft, sizes.append, self._values, self._indptr, self._deps
        first = stop = 0
        calls: list[Call] | None = None
        while allowance >= 0:
            try:
                task = take()
            except IndexError:
                return None
            if not first <= task < stop:
                stage = self._stage_of[task]
                first, stop = self._offsets[stage], self._offsets[stage + 1]
                work = self._graph.stages[stage].work
                calls = work.calls if isinstance(work, Calls) else None  # all of them: the graph leaves out none
            try:
                if calls is None:
                    value = self._program(task)
                else:
                    call = calls[task - first]
                    if not call.inputs:
                        value = call.fn(*call.args, **call.kwargs)
                    elif call.flat:
                        start = indptr[task]
                        value = call.fn(*[values[deps[start + a.index]] if type(a) is Slot else a for a in call.args])
                    else:
                        start = indptr[task]
                        inputs = [values[block] for block in deps[start : indptr[task + 1]].tolist()]
                        value = call.fn(*_fill(call.args, inputs), **_fill(call.kwargs, inputs))
            except BaseException as error:
                return error
            values[task] = value
            size = sizeof(value)
            allowance -= size
            add(size)
        return None

    def _program(self, task: int) -> Any:
        number, stage, block = self._graph.locate(task)
        if isinstance(stage.work, Held):
            return stage.work.handles[block].result()
        index = self._graph.index(task)
        return run_stage(stage, index, self._gather(task, number, stage, block, index), self._context)

    def _gather(self, task: int, number: int, stage: Stage, block: int, index: tuple[int, ...]) -> list[list[Any]]:
        """The blocks of each input of the stage: the graph's ``deps``, cut where one input ends and the next begins."""
        counts = self._counts.get(number)
        if counts is None:
            self._counts[number] = counts = [_counter(input_) for input_ in stage.inputs]
        blocks = []
        start = self._indptr[task]
        for count, input_ in zip(counts, stage.inputs, strict=True):
            stop = start + count(index, block)
            values = [self._values[needed] for needed in self._deps[start:stop].tolist()]
            blocks.append(values if input_.pick is None else [value[input_.pick] for value in values])
            start = stop
        return blocks


def takes_buffers(stage: Stage) -> bool:
    """Whether the blocks of a stage come from the buffer pool, so that idle buffers may fill what they reserve."""
    if not isinstance(stage.work, Program):
        return False
    pooled = [isinstance(operand, Assembled | Gathered) for operand in stage.work.operands]
    for segment in stage.work.segments:
        pooled += [True] * len(segment.results) if isinstance(segment, TileSegment) else [False]
    return any(pooled[output.value] for output in stage.work.outputs if output.sink is None)


def _counter(input_: StageInput) -> _Count:
    blocks = input_.blocks
    if isinstance(blocks, LinearMap):
        return lambda index, block: 1
    if isinstance(blocks, ExplicitMap):
        indptr = blocks.indptr.data
        return lambda index, block: indptr[block + 1] - indptr[block]
    return lambda index, block: prod(blocks.counts(index))


def _fill(template: Any, inputs: list[Any]) -> Any:
    """The template with inputs in place of Slots, at any depth of lists, tuples and dicts (and keys of dicts)."""
    kind = type(template)
    if kind is Slot:
        return inputs[template.index]
    if kind is list or kind is tuple:
        return kind([_fill(item, inputs) for item in template])
    if kind is dict:
        return {_fill(key, inputs): _fill(item, inputs) for key, item in template.items()}
    return template
