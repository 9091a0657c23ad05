"""Run NumPy-, pandas- and xarray-shaped programs in parallel, in bounded memory.

>>> import tilework as tw
>>> import tilework.array as ta
>>> x = ta.random.default_rng(0).random((4000, 4000), chunks=(1000, 1000))
>>> (x - x.mean(axis=0)).std().compute().round(2)
np.float64(0.29)

This is the facade: it re-exports what users call, and loads each part when it is first asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from tilework.base.version import __version__

if TYPE_CHECKING:
    from tilework import array
    from tilework.base import config
    from tilework.delayed import delayed
    from tilework.diagnostics.progress import ProgressBar
    from tilework.session import compute, explain, is_tilework_collection, optimize, persist, visualize

_HOME = {
    "ProgressBar": "tilework.diagnostics.progress",
    "compute": "tilework.session",
    "delayed": "tilework.delayed",
    "explain": "tilework.session",
    "is_tilework_collection": "tilework.session",
    "optimize": "tilework.session",
    "persist": "tilework.session",
    "visualize": "tilework.session",
}
"""The module in which each public name lives."""

_MODULES = {"array": "tilework.array", "config": "tilework.base.config"}
"""Public names that are modules."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        value: Any = import_module(_MODULES[name])
    elif name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    else:
        raise AttributeError(f"module 'tilework' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Facade(ModuleType):
    """Python sets a loaded submodule on its package; these two must not hide the functions of the same names."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in ("delayed", "optimize") and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return import_module, (__name__,)  # functions that name it are pickled with it, and only plain modules can be


sys.modules[__name__].__class__ = _Facade


__all__ = [
    "ProgressBar",
    "__version__",
    "array",
    "compute",
    "config",
    "delayed",
    "explain",
    "is_tilework_collection",
    "optimize",
    "persist",
    "visualize",
]
