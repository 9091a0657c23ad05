"""Writing from xarray: what a file would lose is refused before it is touched, and writes can wait.

xarray empties a store or file that is opened with ``mode="w"``, and then asks for the values; if they come from there,
they are gone. :func:`guarded` looks at what the arrays read first. ``compute=False`` gives :class:`Writes`; xarray
would hide the writes in a delayed value of Dask's.

Nothing is needed here for writes that are resumed: xarray hands ``chunkmanager_store_kwargs={"resume": True}`` to
:func:`tilework.array.store`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from xarray import Dataset

from tilework import session
from tilework.array import Array
from tilework.base.errors import StorageError
from tilework.io.hdf5 import HDF5Source
from tilework.io.memory import ArraySource
from tilework.io.zarr import ZarrSource, place_token
from tilework.plan.graph import topological
from tilework.plan.ops import Source


def guarded(theirs: Callable[..., Any], places: Callable[..., set[str]]) -> Callable[..., Any]:
    """Xarray's function that writes, refusing to empty what the dataset is made from.

    Parameters
    ----------
    places
        Called with the arguments by name: the places that would be emptied, as :func:`_reads` has them.
    """
    signature = inspect.signature(theirs)

    @wraps(theirs)
    def write(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        read = _reads(given.arguments["dataset"]) if given.arguments["mode"] == "w" else set()
        if read and not read.isdisjoint(places(**given.arguments)):
            raise StorageError(
                f"{theirs.__name__}: the dataset is made from what mode='w' would empty before it is read; write it to "
                "another place, or load() it first"
            )
        return theirs(*args, **kwargs)

    return write


def _reads(dataset: Dataset) -> set[str]:
    """The places of Zarr arrays, and the paths of other files, that the lazy variables of a dataset read."""
    found: set[str] = set()
    for node in topological([v._data.node for v in dataset.variables.values() if isinstance(v._data, Array)]):
        if isinstance(node, Source) and isinstance(node.source, ZarrSource):
            found.add(node.source.place)
        elif isinstance(node, Source) and isinstance(node.source, HDF5Source):
            found.add(node.source.path)
        elif isinstance(node, Source) and isinstance(node.source, ArraySource):
            found.update(_file_of(node.source.array))
    return found


def _file_of(array: Any) -> list[str]:
    """The file behind the layers of an array that xarray has opened."""
    while hasattr(array, "array"):
        array = array.array
    opened = getattr(getattr(getattr(array, "datastore", None), "_manager", None), "_args", ())
    return [os.path.realpath(opened[0])] if opened and isinstance(opened[0], str) else []


def zarr_places(store: Any = None, group: str | None = None, storage_options: Any = None, **_: Any) -> set[str]:
    """The places of the arrays in a Zarr group."""
    import zarr

    options = {"storage_options": storage_options} if storage_options else {}
    try:
        found = zarr.open_group(store, path=group or "", mode="r", **options)
        return {place_token(array) for _, array in found.members(max_depth=None) if isinstance(array, zarr.Array)}
    except Exception:  # nothing there that could be read, or xarray will say what is wrong
        return set()


def netcdf_places(path_or_file: Any = None, **_: Any) -> set[str]:
    """The path of a file."""
    return {os.path.realpath(path_or_file)} if isinstance(path_or_file, str | os.PathLike) else set()


def close_later(theirs: Callable[..., Any], writes: Any, store: Any) -> Any:
    """What ``compute=False`` gives."""
    later = writes if isinstance(writes, tuple) else (writes,)
    return Writes(later, store) if any(map(session.is_collection, later)) else theirs(writes, store)


@dataclass(frozen=True)
class Writes:
    """What is left to do after ``to_zarr(compute=False)``: :func:`tilework.compute` writes, and closes the store.

    ``save_mfdataset(compute=False)`` wraps several of them in a delayed value of Dask's, which has to know how they are
    computed.
    """

    writes: tuple[Any, ...]
    store: Any
    __dask_optimize__ = None

    def compute(self, **options: Any) -> None:
        """Write now. Options are those of :func:`tilework.compute`."""
        session.compute(self, **options)

    def visualize(self, filename: Any = "tilework", **options: Any) -> Any:
        """Draw the plan: see :func:`tilework.visualize`."""
        return session.visualize(*self.writes, filename=filename, **options)

    def __dask_graph__(self) -> dict[str, Any]:
        return {self.__dask_keys__()[0]: (self.compute,)}

    def __dask_keys__(self) -> list[str]:
        return [str(self.writes[0].node.token)]

    def __dask_postcompute__(self) -> tuple[Any, ...]:
        return (_nothing, ())

    def finish(self, values: list[Any]) -> None:
        """Called when everything is written."""
        self.store.close()


def _nothing(results: Any) -> None:
    return None
