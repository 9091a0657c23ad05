"""Arguments of tasks: futures in them are found, and the rest is pickled, before anything is sent."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tilework.base.errors import UnsupportedError
from tilework.distributed.future import Future
from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Slot
from tilework.engine.cluster.wire.messages import Stored, Value

ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes})
"""Types of which a pickle needs no care, and which hold no futures."""

Call = tuple[tuple[Any, ...], dict[str, Any]]


def label_of(function: Callable[..., Any]) -> str:
    """What to call a function's tasks."""
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__name__", None)
    return name.strip("<>") if isinstance(name, str) else type(function).__name__


def check_function(function: Any) -> None:
    """Refuse what cannot be a task.

    Raises
    ------
    TypeError
        If it cannot be called.
    UnsupportedError
        If it is a coroutine or generator function.
    """
    if not callable(function):
        raise TypeError(f"{function!r} is not a function; the first argument is called with the others")
    if inspect.iscoroutinefunction(function):
        raise UnsupportedError(
            f"{label_of(function)} is a coroutine function, and tasks are plain functions; submit one that calls "
            "asyncio.run()"
        )


def dump_calls(
    calls: Sequence[Call], slot: Slot, where: str, name: str
) -> tuple[list[Value], list[tuple[int, ...]] | None]:
    """Pickle the arguments of calls. ``where`` is the cluster's address, ``name`` the function's.

    Returns
    -------
    args
        A pickle of ``(args, kwargs)`` for each call, with Inputs in place of futures.
    inputs
        Numbers of the futures of each call; None if there are none.

    Raises
    ------
    TypeError
        If an argument cannot be pickled. Nothing is left in the slot then.
    """
    args: list[Value] = []
    inputs: list[tuple[int, ...]] = []
    any_inputs = False
    try:
        for call in calls:
            positional, keywords = call
            if not keywords and ATOMS.issuperset(map(type, positional)):
                blob = pickle.dumps(call, 5)
                if len(blob) <= values.INLINE:
                    args.append(blob)
                    inputs.append(())
                    continue
            found: list[int] = []
            new = template(call, found, where)
            args.append(_dump(new, slot, name))
            inputs.append(tuple(found))
            any_inputs = any_inputs or bool(found)
    except BaseException:
        free(args, slot)
        raise
    return args, inputs if any_inputs else None


def free(dumped: Sequence[Value], slot: Slot) -> None:
    """Give back the memory of what was dumped and will not be sent."""
    slot.free(offset for value in dumped if isinstance(value, Stored) for offset, _ in value.extents)


def template(value: Any, inputs: list[int], where: str) -> Any:
    """The value with Inputs in place of futures, whose numbers are added to ``inputs``; or the value itself."""
    kind = type(value)
    if kind in ATOMS or kind is np.ndarray:
        return value
    if kind is Future:
        check_future(value, where)
        inputs.append(value.number)
        return values.Input(len(inputs) - 1)
    if kind is list or kind is tuple:
        before = len(inputs)
        new = kind([template(item, inputs, where) for item in value])
        return new if len(inputs) > before else value
    if kind is dict:
        before = len(inputs)
        changed = {key: template(item, inputs, where) for key, item in value.items()}
        return changed if len(inputs) > before else value
    return value


def check_future(future: Future, where: str) -> None:
    """Refuse futures that say nothing to the cluster at ``where``.

    Raises
    ------
    ClusterClosedError
        If its client was closed, or it was released.
    ValueError
        If it is another cluster's.
    """
    future.check()
    if future.cluster != where:
        raise ValueError(
            f"{future.key} is on the cluster at {future.cluster}, and cannot be used on the one at {where}; "
            "pass on its result()"
        )


def _dump(call: Call, slot: Slot, name: str) -> Value:
    try:
        return values.dump(call, slot, copy=True)[0]
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(f"{_culprit(call, slot)} of {name} cannot be sent to a worker: {error}") from error


def _culprit(call: Call, slot: Slot) -> str:
    """Which argument it is that cannot be pickled."""
    positional, keywords = call
    named = [(f"argument {k}", value) for k, value in enumerate(positional)]
    for which, value in [*named, *[(f"argument {key}=", value) for key, value in keywords.items()]]:
        try:
            free([values.dump(value, slot, copy=True)[0]], slot)
        except Exception:
            return f"{which} ({type(value).__qualname__})"
    return "an argument"
