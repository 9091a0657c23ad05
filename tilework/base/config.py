"""Settings: one frozen record, read once from the environment, changed with :func:`set`.

``TILEWORK_MEMORY=2GB``, ``TILEWORK_WORKERS=4`` and so on (one variable a field of :class:`Settings`) are read when this
module is imported. :func:`set` changes settings for the whole process; as a ``with`` statement it changes them for the
current thread or asyncio task only (a :class:`contextvars.ContextVar`), and takes the change back at the end. Code
takes one :class:`Settings` from :func:`get` at the start of a computation and passes it on: what runs does not change
midway.

Names that programs written for Dask use (``num_workers``, ``{"array.chunk-size": "64MiB"}``,
``scheduler="threading"``) are understood where there is a counterpart.
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from functools import cache
from types import TracebackType
from typing import Any

from tilework.base import machine
from tilework.base.errors import ConfigError
from tilework.base.sizes import parse_bytes

MEMORY_SHARE = 0.6
"""Share of the memory that the machine (and its cgroup) has which computations may use by default.

The rest is for the interpreter, for what the program holds itself, and for the file cache.
"""

ADDRESS_VARIABLE = "TILEWORK_SCHEDULER_ADDRESS"
"""Environment variable: the address that ``Client()`` connects to, set by ``tilework run --workers``. No setting."""

_SCHEDULERS = {
    **{name: name for name in ("threads", "processes", "sync")},
    "threading": "threads",
    "multiprocessing": "processes",
    "single-threaded": "sync",
    "synchronous": "sync",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. ``None`` means: chosen from the machine or from the work.

    Attributes
    ----------
    scheduler
        ``"threads"``, ``"processes"``, ``"sync"`` (alias ``"single-threaded"``), a ``Client`` or ``LocalCluster``, the
        address of a running cluster (``"tcp://127.0.0.1:PORT"``), or an engine object.
    workers
        Tasks that run at a time. Default: the cores that the process may use. A cluster has those it has.
    memory
        Bytes that blocks, scratch space and results may take together. Default: 60 % of the machine's or the cgroup's.
        A cluster has what it was given.
    chunk_size
        Bytes of a chunk that ``chunks="auto"`` aims at.
    split_every
        Blocks that are joined per level of a tree reduction.
    retries
        How often a task that raised is tried again.
    spill_directory
        Where blocks go that do not fit into memory. Default: the directory for temporary files.
    progress
        Whether to show a progress bar for every computation.
    """

    scheduler: Any = "threads"
    workers: int | None = None
    memory: int | None = None
    chunk_size: int = 128 * 2**20
    split_every: int | None = None
    retries: int = 0
    spill_directory: str | None = None
    progress: bool = False


def resolve_memory(settings: Settings) -> int:
    """The memory budget in bytes: as set, or :data:`MEMORY_SHARE` of what machine and cgroup have."""
    if settings.memory is not None:
        return settings.memory
    return int(MEMORY_SHARE * _machine()[0])


def resolve_workers(settings: Settings) -> int:
    """Tasks at a time: as set, or the cores that this process may use (affinity and cgroup quota)."""
    return settings.workers if settings.workers is not None else _machine()[1]


@cache
def _machine() -> tuple[int, int]:
    """Memory and cores, asked once: a dozen files of the kernel's are read for it, too dear for every computation."""
    return machine.memory_total(), machine.cores()


# ---------------------------------------------------------------- reading values


def _parse_scheduler(name: str, value: Any) -> Any:
    if isinstance(value, str):
        if value.lower() in _SCHEDULERS:
            return _SCHEDULERS[value.lower()]
        if value.startswith("tcp://"):
            return value
        raise ConfigError(f"{name}={value!r} is no scheduler{_suggest(value, _SCHEDULERS)}")
    if callable(getattr(value, "__tilework_engine__", None)) or callable(getattr(value, "run", None)):
        return value
    raise ConfigError(f'{name}={value!r} is no scheduler; use "threads", "processes", "sync", a Client or an engine')


def _parse_count(least: int) -> Callable[[str, Any], int]:
    def parse(name: str, value: Any) -> int:
        try:
            number = int(value)
            if isinstance(value, bool) or (not isinstance(value, str) and number != value):
                raise ValueError
        except (TypeError, ValueError):
            raise ConfigError(f"{name}={value!r} is not a whole number; use one from {least} up") from None
        if number < least:
            raise ConfigError(f"{name}={value!r} is too small; use a whole number from {least} up")
        return number

    return parse


def _parse_size(name: str, value: Any) -> int:
    return parse_bytes(value, name)


def _parse_directory(name: str, value: Any) -> str:
    try:
        path = os.path.abspath(os.path.expanduser(os.fsdecode(value)))
    except TypeError:
        raise ConfigError(f"{name}={value!r} is not a path; name a directory") from None
    if os.path.exists(path) and not os.path.isdir(path):
        raise ConfigError(f"{name}={value!r} is not a directory; name one, or a new one that can be made")
    return path


def _parse_bool(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    if str(value).lower() not in words:
        raise ConfigError(f"{name}={value!r} is neither true nor false; use one of {', '.join(words)}")
    return words[str(value).lower()]


_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "scheduler": _parse_scheduler,
    "workers": _parse_count(1),
    "memory": _parse_size,
    "chunk_size": _parse_size,
    "split_every": _parse_count(2),
    "retries": _parse_count(0),
    "spill_directory": _parse_directory,
    "progress": _parse_bool,
}
_DEFAULTS = {field.name: field.default for field in fields(Settings)}

_ALIASES = {  # Dask's names, spelled with underscores
    "num_workers": "workers",
    "array.chunk_size": "chunk_size",
    "temporary_directory": "spill_directory",
}
_WITHOUT_EFFECT = {  # Dask's switches for what tilework always does, or never has to
    "array.slicing.split_large_chunks",
    "optimization.fuse.active",
}


def _suggest(value: str, names: Iterable[str]) -> str:
    """The end of an error: what was probably meant, and all that is valid."""
    close = get_close_matches(value.lower(), names, n=1)
    return f"{f'; did you mean {close[0]!r}?' if close else ''} (valid: {', '.join(names)})"


def _read(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Check changes and return them by field name, with parsed values. ``None`` means the default."""
    parsed: dict[str, Any] = {}
    for key, value in changes.items():
        name = key.replace("__", ".").replace("-", "_")
        name = _ALIASES.get(name, name)
        if name in _WITHOUT_EFFECT:
            warnings.warn(f"the setting {key!r} has no effect in tilework", stacklevel=3)
        elif name not in _PARSERS:
            raise ConfigError(f"there is no setting {key!r}{_suggest(name, _PARSERS)}")
        else:
            parsed[name] = _DEFAULTS[name] if value is None else _PARSERS[name](key, value)
    return parsed


def _from_environment(environment: Mapping[str, str]) -> Settings:
    """Settings from ``TILEWORK_...`` variables. One that looks like a slip of the pen is warned about."""
    changes: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith("TILEWORK_") or variable == ADDRESS_VARIABLE or value == "":
            continue
        name = variable.removeprefix("TILEWORK_").lower()
        if name in _PARSERS:
            changes[name] = _PARSERS[name](variable, value)
        elif close := get_close_matches(name, _PARSERS, n=1):
            warnings.warn(f"{variable} is ignored; did you mean TILEWORK_{close[0].upper()}?", stacklevel=2)
    return Settings(**changes)


# ---------------------------------------------------------------- getting and setting

_lock = threading.Lock()
_base = _from_environment(os.environ)  # with all global changes that are final
_pending: list[
    tuple[Callable[[], object], dict[str, Any]]
] = []  # later global changes, oldest first, each with who may
# yet take it back: a _Change by being entered, a scheduler by remove_scheduler(). None if nobody can.
_global = _base  # _base with the pending changes: what holds for threads that have nothing of their own
_local: ContextVar[Mapping[str, Any] | None] = ContextVar("tilework-settings", default=None)


def get(**changes: Any) -> Settings:
    """Return the settings that hold here and now.

    Parameters
    ----------
    **changes
        Settings for one computation, which win over all others. ``None`` means that it was not given.

    Raises
    ------
    ConfigError
        If a name or a value makes no sense.

    Examples
    --------
    >>> get(memory="300MB").memory
    300000000
    """
    local = _local.get()
    settings = replace(_global, **local) if local else _global
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(settings, **_read(given)) if given else settings


def set(settings: Mapping[str, Any] | None = None, /, **changes: Any) -> _Change:
    """Change settings, for the whole process or as a context manager.

    Parameters
    ----------
    settings
        Settings by name, where a name is no identifier: ``{"array.chunk-size": "64MiB"}``.
    **changes
        Settings by name. ``None`` means the default.

    Returns
    -------
    context manager
        Used in a ``with`` statement, the change holds in this thread (or asyncio task) until its end. Threads that are
        started inside do not inherit it.

    Raises
    ------
    ConfigError
        If a name or a value makes no sense. Nothing is changed then.

    Examples
    --------
    >>> with set(scheduler="sync", memory="1 GiB"):
    ...     get().scheduler
    'sync'
    """
    return _Change(_read({**(settings or {}), **changes}))


def push_scheduler(scheduler: Any) -> None:
    """Make a scheduler the one that all threads use, until it is removed or another one is set or pushed."""
    with _lock:
        _pending.append((lambda: scheduler, {"scheduler": scheduler}))
        _rebuild()


def remove_scheduler(scheduler: Any) -> None:
    """Take back the last :func:`push_scheduler` of this scheduler. Without one, nothing happens."""
    with _lock:
        for k in range(len(_pending) - 1, -1, -1):
            if _pending[k][0]() is scheduler:
                del _pending[k]
                break
        _rebuild()


class _Change:
    """A change of settings. Global from the moment it is made; entering it makes it local instead.

    Python does not tell a call that stands alone from one in a ``with`` statement, so for the instant between the two
    the change is visible to other threads as well.
    """

    def __init__(self, changes: dict[str, Any]) -> None:
        self._changes = changes
        self._token: Token[Mapping[str, Any] | None] | None = None
        with _lock:
            _pending.append((weakref.ref(self), changes))
            _rebuild()

    def __enter__(self) -> Settings:
        with _lock:
            _pending[:] = [entry for entry in _pending if entry[0]() is not self]
            _rebuild()
        self._token = _local.set({**(_local.get() or {}), **self._changes})
        return get()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._token is not None:
            _local.reset(self._token)
            self._token = None


def _after_fork() -> None:
    """In a forked child: the parent's clients are not the child's."""
    global _lock
    _lock = threading.Lock()
    _pending[:] = [entry for entry in _pending if entry[0] is _nobody or isinstance(entry[0], weakref.ref)]
    _rebuild()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _rebuild() -> None:
    """Recompute what holds globally. Called with the lock held."""
    global _base, _global
    while _pending and _pending[0][0]() is None:  # nobody can take it back any more
        _base = replace(_base, **_pending.pop(0)[1])
    for k in range(len(_pending) - 1, 0, -1):  # those above something that may go are kept, but as one
        if _pending[k][0]() is None and _pending[k - 1][0]() is None:
            _pending[k - 1 : k + 1] = [(_nobody, {**_pending[k - 1][1], **_pending[k][1]})]
    _global = _base
    for _, changes in _pending:
        _global = replace(_global, **changes)


def _nobody() -> None:
    """Who may take a change back that is there to stay."""
