"""Deterministic names for values: equal tokens promise equal values, so that equal work is found and done once.

Values are described as text, piece by piece, and the text is hashed. What a token stands for:

- plain Python values, NumPy scalars, dtypes and small arrays: their type and value;
- arrays above :data:`LARGE` bytes: *identity* plus dtype and shape. Their bytes are never read; two equal large arrays
  have different tokens, which costs a missed merge and nothing else;
- functions and classes that can be imported: module and qualified name. Others (lambdas, closures, functions typed
  into a notebook): their code, defaults and closed-over values, since the name may be bound anew a line later;
- objects that know better: what their ``__tilework_token__()`` returns, or the ``token`` of tilework's own objects.
  A foreign object's ``token`` attribute is not trusted: it may be anything, such as a password;
- anything else: what it would be pickled from (class, arguments, state), piece by piece by the same rules;
- what cannot be pickled (locks, open files, generators): identity.

Identity is a number that is never used twice, prefixed with a random name of this process, so that tokens of several
processes never meet by accident.
"""

from __future__ import annotations

import copyreg
import os
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from itertools import count
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

LARGE = 4096
"""Arrays of more bytes than this are told apart by identity."""

_process = os.urandom(6).hex()
_numbers = count()
_lock = threading.RLock()  # reentrant: the garbage collector may run a weakref callback while it is held
_identities: dict[int, tuple[weakref.ref[Any], str]] = {}  # by id(); an entry dies with its object


def _after_fork() -> None:
    global _process, _lock
    _process = os.urandom(6).hex()
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def tokenize(*args: Any) -> str:
    """Return a token for the values: 32 hexadecimal digits, equal for equal values.

    Examples
    --------
    >>> tokenize("mean", (0, 1), None) == tokenize("mean", (0, 1), None)
    True
    >>> tokenize(1) == tokenize(1.0)
    False
    """
    try:
        text = _describe_all(args)
    except RecursionError:  # contains itself, or is nested too deeply
        return unique_token("value")
    return blake2b(text.encode(), digest_size=16).hexdigest()


def unique_token(prefix: str) -> str:
    """Return a token that no other call returns, in this process or another.

    Examples
    --------
    >>> unique_token("call") == unique_token("call")
    False
    """
    return f"{prefix}-{_process}-{next(_numbers):x}"


def identity_token(obj: Any) -> str:
    """Return the same token for as long as the object lives, and never again after.

    Objects that cannot be weakly referenced get a new token at each call: never wrong, only never merged.
    """
    with _lock:
        known = _identities.get(id(obj))
        if known is not None and known[0]() is obj:
            return known[1]
        token = unique_token("object")
        with suppress(TypeError):
            _identities[id(obj)] = weakref.ref(obj, partial(_forget, id(obj))), token
        return token


def _forget(key: int, ref: weakref.ref[Any]) -> None:
    with _lock:  # the id may already belong to a younger object
        if key in _identities and _identities[key][0] is ref:
            del _identities[key]


# ---------------------------------------------------------------- descriptions
#
# Every description is self-delimiting: a repr, or brackets around descriptions, so that no two values share one.


def _describe_all(values: Any) -> str:
    return ",".join([_DESCRIBE.get(type(v), _describe_other)(v) for v in values])


def _describe_other(obj: Any) -> str:
    if isinstance(obj, type):
        return _describe_class(obj)
    own = getattr(type(obj), "__tilework_token__", None)
    if own is not None:
        return f"own[{_describe_class(type(obj))},{_describe_all((own(obj),))}]"
    if type(obj).__module__.partition(".")[0] == "tilework":
        token = getattr(obj, "token", None)
        if isinstance(token, str):
            return f"token[{token}]"
    if isinstance(obj, np.ndarray):
        return f"{_describe_class(type(obj))}{identity_token(obj)}"
    if isinstance(obj, np.dtype):
        return _describe_dtype(obj)
    return _describe_pickle(obj)


def _describe_pickle(obj: Any) -> str:
    """Describe what pickle would rebuild the object from."""
    cls = type(obj)
    if cls is object:  # a sentinel: has no value but its identity
        return identity_token(obj)
    try:
        custom = copyreg.dispatch_table.get(cls)
        reduced = custom(obj) if custom is not None else obj.__reduce_ex__(4)
    except RecursionError:
        raise
    except Exception:  # cannot be pickled, in whatever way its author chose to say so
        return identity_token(obj)
    if isinstance(reduced, str):  # a global of its module
        module = getattr(obj, "__module__", None) or "builtins"
        return f"global[{module}.{reduced}]" if _importable(obj, module, reduced) else identity_token(obj)
    parts = [*reduced, None, None, None][:5]
    parts[3] = None if parts[3] is None else list(parts[3])
    parts[4] = None if parts[4] is None else list(parts[4])
    return f"object[{_describe_all(parts)}]"


def _describe_tuple(obj: tuple[Any, ...]) -> str:
    return f"({_describe_all(obj)})"


def _describe_list(obj: list[Any]) -> str:
    return f"[{_describe_all(obj)}]"


def _describe_set(obj: frozenset[Any]) -> str:
    return f"{type(obj).__name__}{{{','.join(sorted(_describe_all((v,)) for v in obj))}}}"


def _describe_dict(obj: dict[Any, Any]) -> str:
    return f"{{{','.join(sorted(_describe_all(item) for item in obj.items()))}}}"


def _describe_bytes(obj: bytes | bytearray) -> str:
    if len(obj) <= 32:
        return repr(obj)
    return f"{type(obj).__name__}:{len(obj)}:{blake2b(obj, digest_size=16).hexdigest()}"


def _describe_dtype(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "biufcmMSU":
        return f"dtype[{dtype.str}]"
    return f"dtype[{dtype!r}]" if dtype.kind != "O" else "dtype[O]"


def _describe_array(obj: np.ndarray) -> str:
    kind = f"array[{_describe_dtype(obj.dtype)}{obj.shape}"
    if obj.nbytes > LARGE:
        return f"{kind}{identity_token(obj)}]"
    if obj.dtype.kind == "O":
        return f"{kind}{_describe_all(obj.ravel().tolist())}]"
    if obj.dtype.kind == "T":  # variable-width strings: the array's own bytes are only pointers
        return f"{kind}{_describe_all(obj.astype(object).ravel().tolist())}]"
    return f"{kind}{_describe_bytes(obj.tobytes())}]"


def _describe_scalar(obj: np.generic) -> str:
    return f"scalar[{_describe_dtype(obj.dtype)}{obj.tobytes()!r}]"


def _importable(obj: Any, module: str | None, name: str) -> bool:
    """Whether ``module.name`` is this very object, and will be so in other processes too."""
    if module is None or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is obj


def _describe_class(cls: type) -> str:
    if _importable(cls, cls.__module__, cls.__qualname__):
        return f"class[{cls.__module__}.{cls.__qualname__}]"
    return f"class[{identity_token(cls)}]"


def _describe_function(fn: FunctionType) -> str:
    if _importable(fn, fn.__module__, fn.__qualname__):
        return f"function[{fn.__module__}.{fn.__qualname__}]"
    cells: list[Any] = []
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:  # not assigned yet
            value = ()
        cells.append((name, "<itself>" if value is fn else value))
    parts = (fn.__module__, fn.__qualname__, fn.__code__, fn.__defaults__, fn.__kwdefaults__, cells)
    return f"function[{_describe_all(parts)}]"


def _describe_code(code: CodeType) -> str:
    parts = (code.co_code, code.co_consts, code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
    return f"code[{_describe_all(parts)}]"


def _describe_builtin(fn: BuiltinFunctionType) -> str:
    owner = fn.__self__
    if owner is None or isinstance(owner, ModuleType):
        return f"function[{fn.__module__}.{fn.__qualname__}]"
    return f"method[{fn.__name__},{_describe_all((owner,))}]"


def _describe_method(fn: MethodType) -> str:
    return f"method[{_describe_all((fn.__func__, fn.__self__))}]"


def _describe_ufunc(fn: np.ufunc) -> str:
    for module in ("numpy", "scipy.special"):
        if _importable(fn, module, fn.__name__):
            return f"function[{module}.{fn.__name__}]"
    return f"function[{identity_token(fn)}]"


def _describe_module(module: ModuleType) -> str:
    return f"module[{module.__name__}]"


_DESCRIBE: dict[type, Callable[[Any], str]] = {
    **dict.fromkeys((type(None), bool, int, float, complex, str, type(...)), repr),
    tuple: _describe_tuple,
    list: _describe_list,
    dict: _describe_dict,
    set: _describe_set,
    frozenset: _describe_set,
    bytes: _describe_bytes,
    bytearray: _describe_bytes,
    np.ndarray: _describe_array,
    FunctionType: _describe_function,
    CodeType: _describe_code,
    BuiltinFunctionType: _describe_builtin,
    MethodType: _describe_method,
    ModuleType: _describe_module,
    np.ufunc: _describe_ufunc,
    type: _describe_class,
    **dict.fromkeys(
        {np.dtype(c).type for c in "?bhilqBHILQefdgFDGmM"},
        _describe_scalar,
    ),
}
