"""NumPy's ufunc protocol, and the elementwise functions that NumPy did not make ufuncs.

The namespace re-exports NumPy's own ufuncs (``tilework.array.sin is numpy.sin``): they come back here through
``__array_ufunc__`` as soon as one operand is an :class:`Array`, with ``out=``, ``where=``, ``dtype=`` and the methods
``reduce``, ``accumulate`` and ``outer``. Types are found by running the ufunc once on empty arrays, so that what NumPy
would refuse is refused in NumPy's words.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tilework.array import reductions
from tilework.array.core import Array, in_memory, into
from tilework.array.creation import asarray, check_device, operand
from tilework.array.dispatch import FUNCTIONS
from tilework.array.elementwise import Mapped, Masked, Part, cast, pick
from tilework.array.gufuncs import apply_gufunc
from tilework.array.shapes import broadcast_to
from tilework.base.errors import DTypeError, PlanError, UnsupportedError
from tilework.plan import build
from tilework.plan.ops import ArrayNode
from tilework.plan.reductions import Reduction

ASSOCIATIVE = {
    np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin, np.logical_and, np.logical_or, np.logical_xor,
    np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.logaddexp, np.logaddexp2, np.gcd, np.lcm, np.hypot,
}  # fmt: skip
"""Binary ufuncs whose reductions and scans can be done block by block."""


def elementwise(fn: Any, *args: Any, dtype: Any = None, label: str | None = None) -> Array:
    """``fn(*args)`` on operands that broadcast, as an array."""
    operands = [operand(arg, args) for arg in args]
    if not any(isinstance(arg, ArrayNode) for arg in operands):
        operands[0] = asarray(args[0]).node
    return Array(build.elementwise(fn, operands, dtype, label))


def mapped(function: Any, *args: Any, label: str | None = None, **keywords: Any) -> Array:
    """A NumPy function that works element by element, though it is no ufunc."""
    label = label or function.__name__
    known = tuple((name, in_memory(value, f"{label}: {name}")) for name, value in keywords.items())
    return elementwise(Mapped(function, known), *args, label=label)


# ---------------------------------------------------------------- the protocol


def array_ufunc(self: Array, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
    """``Array.__array_ufunc__``."""
    out = kwargs.pop("out", ())
    if not all(_is_operand(x) for x in (*inputs, *out)):
        return NotImplemented
    if ufunc.signature is not None:
        return _generalized(ufunc, inputs, out, kwargs)
    where = kwargs.pop("where", True)
    if method == "__call__":
        results = _call(ufunc, inputs, out, where, kwargs)
    elif method in ("reduce", "accumulate", "outer"):
        apply: Any = {"reduce": _reduce, "accumulate": _accumulate, "outer": _outer}[method]
        if where is not True and method != "reduce":
            raise UnsupportedError(f"{ufunc.__name__}.{method}: where= is not supported")
        results = (apply(ufunc, *inputs, **({} if where is True else {"where": where}), **kwargs),)
    else:
        raise UnsupportedError(
            f"{ufunc.__name__}.{method} does not work on lazy arrays; use map_blocks, or compute first"
        )
    if out:
        results = tuple(r if o is None else into(o, r, ufunc.__name__) for o, r in zip(out, results, strict=True))
    return results[0] if len(results) == 1 else results


def _is_operand(x: Any) -> bool:
    """Whether we know what to do with ``x``; another library's array may know better what to do with us."""
    if isinstance(x, Array | np.ndarray | np.generic) or x is None:
        return True
    return not hasattr(type(x), "__array_ufunc__") and not hasattr(type(x), "__tilework_rebuild__")


def _call(
    ufunc: np.ufunc, inputs: Sequence[Any], out: Sequence[Any], where: Any, kwargs: dict[str, Any]
) -> tuple[Array, ...]:
    """One array for each result of the ufunc."""
    operands = [operand(x, inputs) for x in inputs]
    kwargs = {key: value for key, value in kwargs.items() if key not in ("order", "subok") and value is not None}
    if kwargs:
        operands = _as_loop(ufunc, operands, kwargs)
    nodes = [x for x in operands if isinstance(x, ArrayNode)]
    if not nodes:
        operands[0] = asarray(operands[0]).node
    fns: list[Any] = [ufunc] if ufunc.nout == 1 else [Part(ufunc, k) for k in range(ufunc.nout)]
    if where is True:
        return tuple(Array(build.elementwise(fn, operands, label=ufunc.__name__)) for fn in fns)
    if ufunc.nout > 1:
        raise UnsupportedError(f"{ufunc.__name__}: where= is not supported with several results; use where() on each")
    mask = operand(where, inputs)
    if np.dtype(mask.dtype if hasattr(mask, "dtype") else type(mask)) != bool:
        raise DTypeError(f"{ufunc.__name__}: where={where!r} must be boolean")
    dtype = build.elementwise(ufunc, operands, label=ufunc.__name__).dtype
    base = out[0].node if out and isinstance(out[0], Array) else dtype.type(0)
    return (Array(build.elementwise(Masked(ufunc), [base, mask, *operands], dtype, ufunc.__name__)),)


def _as_loop(ufunc: np.ufunc, operands: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
    """The operands in the types of the loop that ``dtype=``, ``signature=`` and ``casting=`` choose."""
    given = [x.dtype if hasattr(x, "dtype") else type(x) for x in operands]
    signature = kwargs.pop("signature", None)
    dtype = kwargs.pop("dtype", None)
    if dtype is not None:
        signature = (None,) * ufunc.nin + (np.dtype(dtype),) * ufunc.nout
    casting = kwargs.pop("casting", "same_kind")
    if kwargs:
        raise UnsupportedError(f"{ufunc.__name__}: {next(iter(kwargs))}= is not supported on lazy arrays")
    types = [np.dtype(t) if t not in (int, float, complex) else t for t in given]
    loop = ufunc.resolve_dtypes((*types, *([None] * ufunc.nout)), signature=signature, casting=casting)
    return [
        cast(x, t) if isinstance(x, ArrayNode) else np.asarray(x, t)[()]
        for x, t in zip(operands, loop[: ufunc.nin], strict=True)
    ]


def _generalized(ufunc: Any, inputs: Sequence[Any], out: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """A ufunc of vectors or matrices: our own function of that meaning if there is one, else the ufunc on blocks."""
    function = FUNCTIONS.get(ufunc)
    if function is not None and kwargs.keys() <= {"dtype", "casting"}:
        if kwargs:
            inputs = [Array(node) for node in _as_loop(ufunc, [asarray(x).node for x in inputs], kwargs)]
        result = function(*inputs)
    elif "?" in ufunc.signature:
        raise UnsupportedError(
            f"{ufunc.__name__}: {', '.join(kwargs)} are not supported on lazy arrays; move axes first"
        )
    else:
        result = apply_gufunc(ufunc, ufunc.signature, *inputs, allow_rechunk=True, **kwargs)
    return into(out[0], result, ufunc.__name__) if out else result


def _outer(ufunc: np.ufunc, a: Any, b: Any, **kwargs: Any) -> Array:
    a, b = asarray(a), asarray(b)
    left = build.rearrange(a.node, [*range(a.ndim), *([None] * b.ndim)])
    return ufunc(Array(left), b, **kwargs)


def _reduce(
    ufunc: np.ufunc,
    x: Any,
    axis: Any = 0,
    dtype: Any = None,
    keepdims: bool = False,
    initial: Any = None,
    where: Any = True,
) -> Array:
    """``ufunc.reduce``: by NumPy's reduction of that meaning if there is one, else the ufunc's own on blocks."""
    x = asarray(x)
    if ufunc in _REDUCTIONS:
        known = _REDUCTIONS[ufunc]
        options = {"initial": initial} if initial is not None else {}
        if dtype is not None and ufunc in (np.add, np.multiply):
            options["dtype"] = dtype
        elif dtype is not None:
            x = Array(cast(x.node, dtype))
        return known(x, axis=axis, keepdims=keepdims, where=where, **options)
    if initial is not None or where is not True or ufunc not in ASSOCIATIVE:
        what = "initial= and where= are" if ufunc in ASSOCIATIVE else "the order of its operands matters: it is"
        raise UnsupportedError(f"{ufunc.__name__}.reduce: {what} not supported on lazy arrays; use reduction()")
    if dtype is not None:
        x = Array(cast(x.node, dtype))
    reduction = Reduction(
        ufunc.__name__, partial(_reduce_block, ufunc), partial(_reduce_block, ufunc), np.asarray, partial_itemsize=16
    )
    trial = np.ones([min(1, n) for n in x.shape], x.dtype)  # empty where x is, so that NumPy's errors are raised
    out_dtype = ufunc.reduce(trial, axis=axis).dtype
    return Array(build.reduce(x.node, reduction, axis, out_dtype, keepdims=keepdims))


_REDUCTIONS: dict[np.ufunc, Callable[..., Array]] = {
    np.add: reductions.sum, np.multiply: reductions.prod, np.maximum: reductions.max, np.minimum: reductions.min,
    np.logical_and: reductions.all, np.logical_or: reductions.any,
}  # fmt: skip


def _reduce_block(ufunc: np.ufunc, block: np.ndarray, axis: Any) -> np.ndarray:
    """A block reduced to length one; what has no elements and no identity keeps its length of zero."""
    for k in np.atleast_1d(axis):
        if block.shape[k] or ufunc.identity is not None:
            block = ufunc.reduce(block, axis=int(k), keepdims=True)
    return block


def _accumulate(ufunc: np.ufunc, x: Any, axis: int = 0, dtype: Any = None) -> Array:
    if ufunc not in ASSOCIATIVE:
        raise UnsupportedError(
            f"{ufunc.__name__}.accumulate: the order of its operands matters; it cannot be done block by block"
        )
    x = asarray(x)
    x = x if dtype is None else Array(cast(x.node, dtype))
    out_dtype = ufunc.accumulate(np.ones(1, x.dtype)).dtype
    functions = (ufunc.accumulate, partial(_reduce_block, ufunc), ufunc)
    return Array(build.scan(x.node, axis, functions, out_dtype, ufunc.__name__ + ".accumulate"))


# ---------------------------------------------------------------- elementwise functions that are no ufuncs


def astype(
    x: Any, dtype: Any, /, order: str = "K", casting: str = "unsafe", subok: bool = True, copy: bool = True, *,
    device: Any = None,
) -> Array:  # fmt: skip
    """Convert to another type.

    Parameters
    ----------
    x
        The array.
    dtype
        The type.
    casting
        What may be lost: see :func:`numpy.can_cast`.
    order, subok, copy
        Without effect.
    device
        ``"cpu"``, if given.
    """
    check_device(device)
    x = asarray(x)
    if not np.can_cast(x.dtype, dtype, casting):  # type: ignore[arg-type]
        raise DTypeError(f"astype: cannot cast {x.dtype} to {dtype} by the rule {casting!r}; use casting='unsafe'")
    return Array(cast(x.node, dtype))


def where(condition: Any, x: Any = None, y: Any = None) -> Any:
    """Elements of ``x`` where the condition holds, else of ``y``. With the condition alone: see :func:`nonzero`."""
    if (x is None) != (y is None):
        raise PlanError("where: either both or neither of x and y should be given")
    if x is None:
        return asarray(condition).nonzero()
    if isinstance(condition, bool | np.bool_):  # known already: only shape and dtype of the other matter
        dtype = np.result_type(
            *(a if isinstance(a, bool | int | float | complex) else asarray(a).dtype for a in (x, y))
        )
        shape = np.broadcast_shapes(np.shape(x), np.shape(y))
        return broadcast_to(astype(x if condition else y, dtype), shape)
    return elementwise(pick, condition, x, y, label="where")


def clip(a: Any, min: Any = None, max: Any = None, out: Any = None, *, a_min: Any = None, a_max: Any = None) -> Array:
    """Elements raised to ``min`` and lowered to ``max``. See :func:`numpy.clip`."""
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    result = asarray(a)
    if result.dtype.kind in "iu":  # Python integers beyond the dtype limit nothing, and would be refused
        limits = np.iinfo(result.dtype)
        low = None if type(low) is int and low <= limits.min else low
        high = None if type(high) is int and high >= limits.max else high
    if low is not None:
        result = elementwise(np.maximum, result, low, label="clip")
    if high is not None:
        result = elementwise(np.minimum, result, high, label="clip")
    return result if out is None else into(out, result, "clip")


def round(a: Any, decimals: int = 0, out: Any = None) -> Array:
    """Elements rounded to even, to a number of decimals. See :func:`numpy.round`."""
    a, decimals = asarray(a), operator.index(decimals)
    if a.dtype.kind == "f" and decimals == 0:
        result = elementwise(np.rint, a, label="round")
    elif a.dtype.kind in "iu" and decimals >= 0:
        result = a
    else:
        result = mapped(np.round, a, decimals=decimals)
    return result if out is None else into(out, result, "round")


around = round


def real(val: Any) -> Array:
    """Real parts."""
    val = asarray(val)
    return mapped(np.real, val) if val.dtype.kind == "c" else val


def imag(val: Any) -> Array:
    """Imaginary parts."""
    return mapped(np.imag, asarray(val))


def angle(z: Any, deg: bool = False) -> Array:
    """Angles of complex numbers. See :func:`numpy.angle`."""
    return mapped(np.angle, z, deg=deg)


def fix(x: Any, out: Any = None) -> Array:
    """Rounded towards zero."""
    result = elementwise(np.trunc, x, label="fix")
    return result if out is None else into(out, result, "fix")


def sinc(x: Any) -> Array:
    """``sin(pi x) / (pi x)``."""
    return mapped(np.sinc, x)


def i0(x: Any) -> Array:
    """The modified Bessel function of the first kind, order 0."""
    return mapped(np.i0, x)


def isreal(x: Any) -> Array:
    """Whether the imaginary part is zero."""
    return mapped(np.isreal, x)


def iscomplex(x: Any) -> Array:
    """Whether the imaginary part is not zero."""
    return mapped(np.iscomplex, x)


def isposinf(x: Any, out: Any = None) -> Array:
    """Whether elements are positive infinity."""
    result = mapped(np.isposinf, x)
    return result if out is None else into(out, result, "isposinf")


def isneginf(x: Any, out: Any = None) -> Array:
    """Whether elements are negative infinity."""
    result = mapped(np.isneginf, x)
    return result if out is None else into(out, result, "isneginf")


def nan_to_num(x: Any, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Array:
    """NaN and infinities replaced by numbers, in ``x`` itself without ``copy``. See :func:`numpy.nan_to_num`."""
    result = mapped(np.nan_to_num, x, nan=nan, posinf=posinf, neginf=neginf)
    return result if copy else into(x, result, "nan_to_num")


def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Array:
    """Whether elements are equal within a tolerance. See :func:`numpy.isclose`."""
    return elementwise(Mapped(_isclose, (("equal_nan", equal_nan),)), a, b, rtol, atol, label="isclose")


def _isclose(a: Any, b: Any, rtol: Any, atol: Any, *, equal_nan: bool) -> Any:
    return np.isclose(a, b, rtol, atol, equal_nan)


def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Array:
    """Whether all elements are equal within a tolerance, as a lazy boolean."""
    return isclose(a, b, rtol, atol, equal_nan).all()


def isnull(values: Any) -> Array:
    """Whether elements are missing: NaN, NaT or None."""
    values = asarray(values)
    if values.dtype.kind == "O":
        return elementwise(Mapped(_missing), values, dtype=bool, label="isnull")
    return elementwise(np.isnat if values.dtype.kind in "mM" else np.isnan, values, label="isnull")


def _missing(values: np.ndarray) -> np.ndarray:
    return np.frompyfunc(lambda v: v is None or bool(v != v), 1, 1)(values).astype(bool)


def notnull(values: Any) -> Array:
    """Whether elements are not missing: neither NaN, NaT nor None."""
    return ~isnull(values)


def select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Array:
    """Elements of the first choice whose condition holds. See :func:`numpy.select`."""
    if len(condlist) != len(choicelist) or len(condlist) == 0:
        raise PlanError(f"select: {len(condlist)} conditions and {len(choicelist)} choices; give as many of both")
    conditions = [asarray(condition) for condition in condlist]
    for k, condition in enumerate(conditions):
        if condition.dtype != bool:
            raise DTypeError(f"select: condition {k} must be boolean, not {condition.dtype}")
    dtype = np.result_type(
        *(c if isinstance(c, int | float | complex) else asarray(c).dtype for c in (*choicelist, default))
    )
    result = default
    for condition, choice in zip(reversed(conditions), reversed(choicelist), strict=True):
        result = where(condition, choice, result)
    return astype(result, dtype)


def choose(a: Any, choices: Sequence[Any], out: Any = None, mode: str = "raise") -> Array:
    """Elements of the choice that ``a`` names. See :func:`numpy.choose`."""
    result = elementwise(Mapped(_choose, (("mode", mode),)), a, *choices, label="choose")
    return result if out is None else into(out, result, "choose")


def _choose(a: Any, *choices: Any, mode: Any) -> Any:
    return np.choose(a, choices, mode=mode)


def digitize(x: Any, bins: Any, right: bool = False) -> Array:
    """The bin that each element falls into. See :func:`numpy.digitize`."""
    edges = np.asarray(in_memory(bins, "digitize: bins"))
    np.digitize(np.empty(0), edges)  # checks them
    return mapped(np.digitize, x, bins=edges, right=right)
