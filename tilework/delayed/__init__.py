"""Function calls made later: :func:`delayed` records calls as plan nodes instead of running them.

Lazy things among the arguments of a call, also deep inside containers, become its inputs (see
:mod:`tilework.delayed.arguments`): a Delayed arrives as its value, a tilework array as one NumPy array.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, overload

from tilework.base.errors import PlanError
from tilework.delayed.arguments import pure_call, template
from tilework.delayed.core import Delayed, Leaf, label_of
from tilework.plan.ops import Node
from tilework.session import is_collection

__all__ = ["Delayed", "delayed"]

_MISSING: Any = object()


@overload
def delayed(
    obj: Any, name: str | None = None, pure: bool | None = None, nout: int | None = None, traverse: bool = True
) -> Delayed: ...
@overload
def delayed(
    *, name: str | None = None, pure: bool | None = None, nout: int | None = None, traverse: bool = True
) -> Callable[[Any], Delayed]: ...
def delayed(
    obj: Any = _MISSING,
    name: str | None = None,
    pure: bool | None = None,
    nout: int | None = None,
    traverse: bool = True,
) -> Any:
    """Make a function, or any other object, lazy.

    Calls of a delayed function are recorded, not run; so are operators, indexing, attributes and methods of what
    they return. :meth:`Delayed.compute` or :func:`tilework.compute` runs what was recorded, in parallel.

    Parameters
    ----------
    obj
        A function, class or other callable to call later; or a value. Lazy objects inside a value that is a
        container are found and computed with it. Left out, the result is a decorator.
    name
        Key of the wrapped object itself (not of calls: they take ``tilework_key_name=``). Objects of one key are
        taken to be equal.
    pure
        Whether equal calls give equal results, so that they need to run only once. Default: no.
    nout
        How many values a call returns: its result can then be unpacked, ``a, b = f(x)``.
    traverse
        Whether to look for lazy objects inside ``obj``. Turn off to save time with large containers.

    Returns
    -------
    Delayed
        Or a decorator that makes one, if ``obj`` is left out.

    Raises
    ------
    PlanError
        If ``nout`` is not a whole number from 0 up.

    Notes
    -----
    Calls take two keywords that the function does not see: ``pure`` overrides the setting made here, and
    ``tilework_key_name`` (or ``dask_key_name``) sets the key of the result.

    Examples
    --------
    >>> from tilework.delayed import delayed
    >>> @delayed
    ... def inc(x):
    ...     return x + 1
    >>> total = inc(1) + inc(2)
    >>> total.compute()
    5

    >>> smallest = delayed(min, pure=True)
    >>> smallest([inc(4), 7]).compute()
    5
    >>> smallest(1, 2).key == smallest(1, 2).key
    True

    >>> quotient, rest = delayed(divmod, nout=2)(17, 5)
    >>> (quotient * 10 + rest).compute()
    32
    """
    if obj is _MISSING:
        return partial(delayed, name=name, pure=pure, nout=nout, traverse=traverse)
    if nout is not None and (type(nout) is not int or nout < 0):
        raise PlanError(f"nout={nout!r} is not a number of values; use a whole number from 0 up, or None")
    if isinstance(obj, Delayed):
        return obj
    inputs: list[Node] = []
    args = (template(obj, inputs) if traverse or is_collection(obj) else obj,)
    if not inputs:
        return Leaf(obj, name, bool(pure), nout)
    return Delayed(pure_call(_value, label_of(type(obj)), args, inputs, name), nout)


def _value(value: Any) -> Any:
    return value
