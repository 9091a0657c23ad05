"""What sources read from, in other processes.

A source is pickled to where its blocks are made. Its array may be something that has meaning in this process only: a
data set of a file that is open here, memory that is a mapped file, a lock. Here it is replaced by what another process
can open again. An ndarray, a Zarr array and xarray's lazy arrays need none of this: pickle knows them.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from tilework.base.errors import UnsupportedError
from tilework.base.tokens import unique_token

# ---------------------------------------------------------------- locks


class NamedLock:
    """A lock that can be pickled: in another process it is that process's lock of the same name.

    It keeps the threads of one process apart, as libraries need that cannot do two things at once. Between processes
    it does nothing: each has libraries, and open files, of its own.
    """

    def __init__(self, lock: Any = None, name: str | None = None) -> None:
        self._lock, self.name = lock or threading.Lock(), name or unique_token("lock")
        _named[self.name] = self

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def __reduce__(self) -> tuple[Any, ...]:
        return _lock_named, (self.name,)


_named: WeakValueDictionary[str, NamedLock] = WeakValueDictionary()
_naming = threading.Lock()


def _lock_named(name: str) -> NamedLock:
    with _naming:
        return _named.get(name) or NamedLock(name=name)


def named_lock(lock: Any) -> Any:
    """A lock that can be pickled for one that cannot, the same each time. Others are returned as they are."""
    if not isinstance(lock, type(threading.Lock()) | type(threading.RLock())):
        return lock
    with _naming:
        known = [one for one in _named.values() if one._lock is lock]
        return known[0] if known else NamedLock(lock)


# ---------------------------------------------------------------- arrays


def portable(array: Any) -> Any:
    """What to pickle in place of ``array``.

    Raises
    ------
    UnsupportedError
        If no other process could read the same.
    """
    if isinstance(array, np.ndarray):
        return _Mapped.of(array) or array
    module = type(array).__module__.partition(".")[0]
    if module == "h5py" and hasattr(array, "chunks"):
        file = array.file
        if file.mode != "r" or not os.path.isfile(file.filename) or array.name is None:
            raise _unreadable(array, file.filename)
        return _Opened(_open_h5py, (os.path.realpath(file.filename), array.name, file.swmr_mode))
    if module == "netCDF4" and hasattr(array, "group"):
        group = array.group()
        path = group.filepath()
        if "://" not in path:
            if not os.path.isfile(path):
                raise _unreadable(array, path)
            path = os.path.realpath(path)
        settings = array.mask, array.scale, array.always_mask, array.chartostring
        return _Opened(_open_netcdf4, (path, group.path, array.name, settings))
    return array


def _unreadable(array: Any, path: str) -> UnsupportedError:
    return UnsupportedError(
        f"{type(array).__module__}.{type(array).__qualname__} of {path!r}: only this process can read it, since the "
        'file is in memory or open for writing. Close it and open it for reading, or use scheduler="threads"'
    )


class _Opened:
    """Pickled, it is the call that opens something."""

    def __init__(self, function: Any, args: tuple[Any, ...]) -> None:
        self._call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def _open_h5py(path: str, name: str, swmr: bool) -> Any:
    import h5py

    return h5py.File(path, "r", swmr=swmr)[name]


def _open_netcdf4(path: str, group: str, name: str, settings: tuple[bool, ...]) -> Any:
    import netCDF4

    found = netCDF4.Dataset(path)
    found = found if group == "/" else found[group]
    variable = found.variables[name]
    mask, scale, always_mask, chartostring = settings
    variable.set_auto_mask(mask)
    variable.set_auto_scale(scale)
    variable.set_always_mask(always_mask)
    variable.set_auto_chartostring(chartostring)
    return variable


class _Mapped:
    """An array whose memory is a mapped file: pickled by its name and place, not by its contents."""

    def __init__(self, path: str, offset: int, array: np.ndarray) -> None:
        self._place = path, offset, array.dtype, array.shape, array.strides

    @classmethod
    def of(cls, array: np.ndarray) -> _Mapped | None:
        """None if it is no mapped file, or its changes are private to this process."""
        owner: Any = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if not isinstance(owner, np.memmap) or owner.filename is None or owner.mode == "c" or array.dtype.hasobject:
            return None
        first = array.__array_interface__["data"][0] - owner.__array_interface__["data"][0]
        return cls(os.path.realpath(owner.filename), owner.offset + first, array)

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped, self._place


def _mapped(
    path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]
) -> np.ndarray:
    if 0 in shape:
        return np.empty(shape, dtype)
    array: np.ndarray = np.ndarray(shape, dtype, np.memmap(path, np.uint8, "r"), offset, strides)
    return array
