"""From the number of a task to its block: find the call or program, gather the inputs, run it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import prod
from typing import Any, TypeAlias

from tilework.engine.kernels import Context, run_stage
from tilework.engine.local.sizeof import sizeof
from tilework.engine.taskgraph import TaskGraph
from tilework.plan.ops import Call, Slot
from tilework.plan.stages import Calls, ExplicitMap, GridMap, LinearMap, StageInput

# How many blocks of an input the task with this index and number in its stage needs.
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

    def __init__(self, graph: TaskGraph, stage_of: memoryview, values: dict[int, Any], context: Context) -> None:
        self._graph, self._stage_of, self._values, self._context = graph, stage_of, values, context
        self._offsets: list[int] = graph.offsets.tolist()
        self._indptr, self._deps = graph.indptr.data, graph.deps.data
        self._inputs: dict[int, list[tuple[_Count, int | None]]] = {}  # by stage

    def run(self, todo: deque[int], sizes: list[int], allowance: int) -> BaseException | None:
        """Run tasks from the left of ``todo``; append the size of each block to ``sizes``.

        Ends when ``todo`` is empty, or the blocks weigh more than ``allowance`` together. Returns what a task raised:
        it is the one after the ``len(sizes)`` that succeeded. Another thread may take tasks from the right at any time.
        """
        take, add, values, indptr, deps = todo.popleft, sizes.append, self._values, self._indptr, self._deps
        first = stop = stage = 0
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
                calls = work.calls if isinstance(work, Calls) else None
            try:
                if calls is None:
                    value = self._program(stage, task, task - first)
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

    def _program(self, stage: int, task: int, number: int) -> Any:
        index = self._graph.index(task)
        return run_stage(self._graph.stages[stage], index, self._gather(stage, task, number, index), self._context)

    def _gather(self, stage: int, task: int, number: int, index: tuple[int, ...]) -> list[list[Any]]:
        """The blocks of each input of the stage, in the order of the graph's ``deps``."""
        counts = self._inputs.get(stage)
        if counts is None:
            self._inputs[stage] = counts = [_counter(input_) for input_ in self._graph.stages[stage].inputs]
        blocks = []
        start = self._indptr[task]
        for count, pick in counts:
            stop = start + count(index, number)
            values = [self._values[block] for block in self._deps[start:stop].tolist()]
            blocks.append(values if pick is None else [value[pick] for value in values])
            start = stop
        return blocks


def _counter(input_: StageInput) -> tuple[_Count, int | None]:
    blocks = input_.blocks
    if isinstance(blocks, LinearMap):
        return lambda index, number: 1, input_.pick
    if isinstance(blocks, ExplicitMap):
        indptr = blocks.indptr.data
        return lambda index, number: indptr[number + 1] - indptr[number], input_.pick
    assert isinstance(blocks, GridMap)
    return lambda index, number: prod(blocks.counts(index)), input_.pick


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
