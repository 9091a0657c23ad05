"""The Delayed class: a wrapper around one plan node that records what is done to it.

Recording is the cost of every program made of small tasks: :func:`record` looks at each argument once and makes three
objects, the Call, its token and its Delayed. Nothing here recurses along the plan, which may be arbitrarily deep.

How calls are told apart: a call is a new piece of work each time it is written, unless it is pure; then equal calls
have equal tokens and are merged. Operators, indexing and attributes are always pure; methods are pure on request.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from functools import partial
from types import MethodType
from typing import Any, NoReturn

import numpy as np

from tilework import session
from tilework.base.tokens import tokenize, unique_token
from tilework.delayed.arguments import ATOMS, NO_KWARGS, SLOTS, pure_call, pure_token, template
from tilework.diagnostics.visualize import Drawing
from tilework.plan.graph import topological
from tilework.plan.ops import Call, Node, Slot


def _operator(fn: Callable[..., Any], *, reflected: bool = False) -> Callable[..., Delayed]:
    """Return a method that records ``fn``; with ``reflected``, with its operands swapped."""
    label = fn.__name__.strip("_")
    if reflected:
        return lambda self, other: record(fn, label, (other, self), {}, True, None, None, label)
    return lambda *operands: record(fn, label, operands, {}, True, None, None, label)


class _Operators:
    """Operators, each recorded as a pure call."""

    __slots__ = ()

    __add__ = _operator(operator.add)
    __radd__ = _operator(operator.add, reflected=True)
    __sub__ = _operator(operator.sub)
    __rsub__ = _operator(operator.sub, reflected=True)
    __mul__ = _operator(operator.mul)
    __rmul__ = _operator(operator.mul, reflected=True)
    __matmul__ = _operator(operator.matmul)
    __rmatmul__ = _operator(operator.matmul, reflected=True)
    __truediv__ = _operator(operator.truediv)
    __rtruediv__ = _operator(operator.truediv, reflected=True)
    __floordiv__ = _operator(operator.floordiv)
    __rfloordiv__ = _operator(operator.floordiv, reflected=True)
    __mod__ = _operator(operator.mod)
    __rmod__ = _operator(operator.mod, reflected=True)
    __divmod__ = _operator(divmod)
    __rdivmod__ = _operator(divmod, reflected=True)
    __pow__ = _operator(pow)
    __rpow__ = _operator(pow, reflected=True)
    __lshift__ = _operator(operator.lshift)
    __rlshift__ = _operator(operator.lshift, reflected=True)
    __rshift__ = _operator(operator.rshift)
    __rrshift__ = _operator(operator.rshift, reflected=True)
    __and__ = _operator(operator.and_)
    __rand__ = _operator(operator.and_, reflected=True)
    __or__ = _operator(operator.or_)
    __ror__ = _operator(operator.or_, reflected=True)
    __xor__ = _operator(operator.xor)
    __rxor__ = _operator(operator.xor, reflected=True)
    __eq__ = _operator(operator.eq)  # type: ignore[assignment]
    __ne__ = _operator(operator.ne)  # type: ignore[assignment]
    __lt__ = _operator(operator.lt)
    __le__ = _operator(operator.le)
    __gt__ = _operator(operator.gt)
    __ge__ = _operator(operator.ge)
    __neg__ = _operator(operator.neg)
    __pos__ = _operator(operator.pos)
    __abs__ = _operator(operator.abs)
    __invert__ = _operator(operator.invert)
    __round__ = _operator(round)
    __getitem__ = _operator(operator.getitem)


class Delayed(_Operators):
    """A value that will be computed: the result of a delayed call, or an object made lazy.

    Made by :func:`tilework.delayed`. Operators, indexing, attributes and method calls give further Delayed objects.
    An attribute that the value does not have is noticed when it is computed. Names that begin with an underscore are
    not looked up on the value, nor are those of this class: ``delayed(getattr)(x, "key")`` reaches them.

    Attributes
    ----------
    node
        The plan node whose value this is.

    Examples
    --------
    >>> from tilework.delayed import delayed
    >>> words = delayed("to be or not to be").split()
    >>> words.count("be").compute()
    2
    >>> words[-1].upper().compute()
    'BE'
    """

    __slots__ = ("_length", "node")
    node: Node
    _length: int | None

    def __init__(self, node: Node, length: int | None = None) -> None:
        _set_node(self, node)
        _set_length(self, length)

    def __tilework_rebuild__(self, node: Node) -> Delayed:
        return Delayed(node, self._length)

    def __tilework_token__(self) -> str:
        return self.node.token

    @property
    def key(self) -> str:
        """Names the value: objects with equal keys are computed once."""
        return self.node.token

    def compute(self, **options: Any) -> Any:
        """Compute and return the value.

        Parameters
        ----------
        **options
            ``scheduler``, ``memory`` and more: see :func:`tilework.compute`.
        """
        return session.compute(self, **options)[0]

    def persist(self, **options: Any) -> Delayed:
        """Compute the value and keep it: an equal Delayed that costs nothing to use again."""
        (persisted,) = session.persist(self, **options)
        return persisted

    def visualize(self, filename: str | None = "tilework", **options: Any) -> Drawing:
        """Draw the plan into a file and return the drawing; options as of :func:`tilework.visualize`."""
        return session.visualize(self, filename=filename, **options)

    def explain(self, **options: Any) -> Any:
        """Say what computing will cost: see :func:`tilework.explain`."""
        return session.explain(self, **options)

    def __repr__(self) -> str:
        return f"Delayed({self.key!r})"

    def __hash__(self) -> int:
        return hash(self.key)

    def __reduce__(self) -> tuple[Any, ...]:
        # Inputs come before users, so that pickle never meets a node before its inputs, and never recurses.
        return _restore, (topological([self.node]), self._length)

    def __copy__(self) -> Delayed:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Delayed:
        return self

    def __dir__(self) -> list[str]:
        return dir(type(self))

    def __getattr__(self, name: str) -> Delayed:
        if name.startswith("_"):
            raise AttributeError(f"Delayed objects have no attribute {name!r}, and look up no private names later")
        return Attribute(self if type(self) is Delayed else Delayed(self.node), name)

    def __call__(self, *args: Any, pure: bool = False, **kwargs: Any) -> Delayed:
        key = pop_key(kwargs) if kwargs else None
        return record(_apply, "apply", (self, *args), kwargs, pure, None, key)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind like a function, so that methods can be decorated."""
        return self if instance is None else MethodType(self, instance)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Delayed:
        return record(getattr(ufunc, method), ufunc.__name__, inputs, kwargs, True, None, None)

    def __iter__(self) -> Iterator[Delayed]:
        if self._length is None:
            raise TypeError(f"{self!r} cannot be iterated: how many values it has is unknown; give nout= to delayed()")
        return (self[i] for i in range(self._length))

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError(f"{self!r} has no len() before it is computed; give nout= to delayed()")
        return self._length

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"the truth of {self!r} is not known before it is computed; "
            "compute() it, or put the condition inside a delayed function"
        )

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise TypeError(f"Delayed objects are immutable; set {name!r} inside a delayed function")

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError("Delayed objects are immutable; assign items inside a delayed function")

    def __delitem__(self, index: Any) -> NoReturn:
        raise TypeError("Delayed objects are immutable; delete items inside a delayed function")


# Ways around __setattr__. The slots' own setters are what makes a Delayed cheap.
_store = object.__setattr__
_set_node: Callable[[Delayed, Node], None] = Delayed.__dict__["node"].__set__
_set_length: Callable[[Delayed, int | None], None] = Delayed.__dict__["_length"].__set__


class Leaf(Delayed):
    """A function or value as it was given to ``delayed``. Its node is made when it is used as a value."""

    __slots__ = ("_label", "_made", "_name", "_obj", "_pure", "_token")
    _obj: Any
    _label: str
    _name: str | None
    _pure: bool
    _made: Call | None
    _token: str | None

    def __init__(self, obj: Any, name: str | None = None, pure: bool = False, nout: int | None = None) -> None:
        _set_length(self, nout)
        _store(self, "_obj", obj)
        _store(self, "_label", label_of(obj))
        _store(self, "_name", name)
        _store(self, "_pure", pure)
        _store(self, "_made", None)
        _store(self, "_token", name)

    @property
    def node(self) -> Node:  # type: ignore[override]
        if self._made is None:
            token = self._name or (f"{self._label}-{self._described()}" if self._pure else unique_token(self._label))
            _store(self, "_made", pure_call(_identity, self._label, (self._obj,), [], token))
        return self._made  # type: ignore[return-value]

    def _described(self) -> str:
        """What stands for the object in tokens: found once, since what is pure does not change."""
        if self._token is None:
            _store(self, "_token", tokenize(self._obj))
        return self._token  # type: ignore[return-value]

    def __reduce__(self) -> tuple[Any, ...]:
        return Leaf, (self._obj, self._name if self._made is None else self.key, self._pure, self._length)

    def __call__(self, *args: Any, pure: bool | None = None, **kwargs: Any) -> Delayed:
        key = pop_key(kwargs) if kwargs else None
        if pure or (pure is None and self._pure):
            return record(self._obj, self._label, args, kwargs, True, self._length, key, self._described())
        return record(self._obj, self._label, args, kwargs, False, self._length, key)

    @property
    def __name__(self) -> str:
        return self._obj.__name__

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        return self._obj.__doc__

    @property
    def __wrapped__(self) -> Any:
        return self._obj


class Attribute(Delayed):
    """An attribute of a Delayed. Its node is made when it is used as a value: most attributes are methods."""

    __slots__ = ("_made", "_name", "_owner")
    _owner: Delayed
    _name: str
    _made: Call | None

    def __init__(self, owner: Delayed, name: str) -> None:
        _set_length(self, None)
        _store(self, "_owner", owner)
        _store(self, "_name", name)
        _store(self, "_made", None)

    @property
    def node(self) -> Node:  # type: ignore[override]
        if self._made is None:
            made = pure_call(getattr, self._name, (SLOTS[0], self._name), [self._owner.node])
            _store(self, "_made", made)
        return self._made  # type: ignore[return-value]

    def __getattr__(self, name: str) -> Delayed:
        if name == self._name == "dtype":  # numpy.dtype(x) would ask for x.dtype.dtype.dtype... without end
            raise AttributeError("Delayed objects have no dtype before they are computed")
        return super().__getattr__(name)

    def __call__(self, *args: Any, pure: bool = False, **kwargs: Any) -> Delayed:
        key = pop_key(kwargs) if kwargs else None
        return record(Method(self._name), self._name, (self._owner, *args), kwargs, pure, None, key)


class Method:
    """Calls a method of its first argument."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, obj: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(obj, self.name)(*args, **kwargs)


# ---------------------------------------------------------------- recording


def record(
    fn: Callable[..., Any],
    label: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    pure: bool,
    nout: int | None,
    key: str | None,
    described: str | None = None,
) -> Delayed:
    """Return a Delayed for ``fn(*args, **kwargs)``. ``described`` stands for ``fn`` in the token of a pure call."""
    inputs: list[Node] = []
    flat = True
    slots: list[Any] | None = None
    for i, arg in enumerate(args):
        kind = type(arg)
        if kind in ATOMS:
            continue
        if kind is Delayed and len(inputs) < len(SLOTS):  # what template() does, without the call
            new = SLOTS[len(inputs)]
            inputs.append(arg.node)
        else:
            new = template(arg, inputs)
            if new is arg:
                continue
            flat = flat and type(new) is Slot
        if slots is None:
            slots = list(args)
        slots[i] = new
    if slots is not None:
        args = tuple(slots)
    if kwargs:
        flat = False
        kwargs = {name: template(value, inputs) for name, value in kwargs.items()}
    else:
        kwargs = NO_KWARGS
    if key is not None:
        token = key
    elif pure:
        token = pure_token(label, described or fn, args, kwargs, inputs)
    else:
        token = unique_token(label)
    result = _new(Delayed)
    _set_node(result, Call(fn, args, kwargs, tuple(inputs), token, label, flat))
    _set_length(result, nout)
    return result


_new = object.__new__


def pop_key(kwargs: dict[str, Any]) -> str | None:
    """Take the keyword that names a call's result out of ``kwargs``, under tilework's name or Dask's."""
    dask_key: str | None = kwargs.pop("dask_key_name", None)
    return kwargs.pop("tilework_key_name", dask_key)


def label_of(obj: Any) -> str:
    """Return what to call a function or value: its name, or that of its type."""
    while isinstance(obj, partial):
        obj = obj.func
    name = getattr(obj, "__name__", None)
    return name.strip("<>") if isinstance(name, str) else type(obj).__name__


# ---------------------------------------------------------------- functions that calls run


def _identity(value: Any) -> Any:
    return value


def _apply(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return fn(*args, **kwargs)


def _restore(nodes: list[Node], length: int | None) -> Delayed:
    """Unpickle: the last node is the Delayed's own."""
    return Delayed(nodes[-1], length)
