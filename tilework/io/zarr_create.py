"""New Zarr arrays, and what becomes of what was at their place.

What is there is replaced only if asked for. In a local directory a new array is made beside its place and moved there
when it is complete, so that a computation that fails, or that reads what it is going to replace, damages nothing.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tilework.base.errors import StorageError
from tilework.io.zarr import KNOWN_AGAIN, RECORDS, begin_resumable, has_record, open_zarr_array, zarr_python


def create_zarr_array(
    url: Any, component: str | None = None, *, overwrite: bool = False, storage_options: Any = None, **kwargs: Any
) -> Any:
    """Make a new Zarr array.

    Parameters
    ----------
    url, component, storage_options
        As for :func:`open_zarr_array`.
    overwrite
        Replace an array that is there, at once. A group, or a directory that is something else, is never replaced.
    **kwargs
        ``shape``, ``dtype``, ``chunks``, ``shards``, ``fill_value``, ... of ``zarr.create_array``.

    Returns
    -------
    zarr.Array

    Raises
    ------
    StorageError
        If something is there already, or the array cannot be made.
    """
    _check_free(url, component, overwrite, storage_options)
    return _create(url, component, overwrite, storage_options, kwargs)


@contextmanager
def replacing(
    url: Any, component: str | None = None, *, overwrite: bool = False, storage_options: Any = None, **kwargs: Any
) -> Iterator[Any]:
    """A new Zarr array that takes its place when the block ends well, and disappears when it does not.

    So a computation that fails, or that reads what it is going to replace, damages nothing. Parameters are those of
    :func:`create_zarr_array`. Only local directories can do this; in any other store the array is made at its place.
    """
    _check_free(url, component, overwrite, storage_options)
    place = local_place(url, component)
    if place is None:
        yield _create(url, component, overwrite, storage_options, kwargs)
        return
    staged = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        _parents(url, component, kwargs.get("zarr_format"))
        yield _create(staged, None, False, None, kwargs)
        _put(staged, place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@contextmanager
def resuming(
    url: Any, component: str | None, plan: str, *, overwrite: bool = False, storage_options: Any = None, **kwargs: Any
) -> Iterator[Any]:
    """A new Zarr array that may take several runs of ``plan`` to complete; None if it is complete.

    In a local directory it takes its place when the block ends well. When it does not it stays beside that, under the
    name ``.NAME.partial``, and the next run goes on with it. In any other store the array is made at its place.
    Parameters are those of :func:`create_zarr_array`.
    """
    place = local_place(url, component)
    found = _found(url, component, storage_options)
    ours = isinstance(found, zarr_python().Array) and has_record(found, plan)
    if place is None:
        if not ours:
            _check_free(url, component, overwrite, storage_options)
            found = _create(url, component, overwrite, storage_options, kwargs)
        begin_resumable(found, (0,) * len(found.shape), found.shape, plan)
        yield _writable(open_zarr_array(url, component, storage_options, "r+"), kwargs)
        return
    if ours:
        yield None
        return
    _check_free(url, component, overwrite, storage_options)
    staged = place.with_name(f".{place.name}.partial")
    half = _found(staged, None, None)
    if half is None or not has_record(half, plan):
        if half is None and any(file.suffix != ".partial" for file in staged.rglob("*") if file.is_file()):
            raise StorageError(f"{staged} is in the way: it is no zarr array; move it elsewhere")
        if half is not None and not overwrite and (staged / RECORDS).exists():
            raise StorageError(
                f"{staged} holds what an interrupted run of another program has written {KNOWN_AGAIN}; "
                "delete it, or use overwrite=True"
            )
        shutil.rmtree(staged, ignore_errors=True)
        _parents(url, component, kwargs.get("zarr_format"))
        half = _create(staged, None, False, None, kwargs)
        begin_resumable(half, (0,) * len(half.shape), half.shape, plan)
    yield _writable(open_zarr_array(staged, mode="r+"), kwargs)
    for leftover in staged.rglob("*.partial"):  # of chunks that were being written when a run was killed
        leftover.unlink()
    _put(staged, place)


def _writable(array: Any, kwargs: Mapping[str, Any]) -> Any:
    """An array with the settings that storage does not keep."""
    return array.with_config(kwargs["config"]) if kwargs.get("config") else array


def local_place(url: Any, component: str | None) -> Path | None:
    """Where an array lies, if ``url`` is a path."""
    local = isinstance(url, str | Path) and "://" not in str(url)
    return Path(os.path.abspath(url), component or "") if local else None


def _put(staged: Path, place: Path) -> None:
    """Move an array to its place. What is there goes when its successor has come."""
    former = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.former")
    try:
        if place.exists():
            place.rename(former)
        staged.rename(place)
    except OSError as error:
        if former.exists() and not place.exists():
            former.rename(place)
        raise StorageError(f"putting the new zarr array in its place {place} failed: {error}") from error
    shutil.rmtree(former, ignore_errors=True)


def _parents(url: Any, component: str | None, zarr_format: int | None) -> None:
    """Make the groups that the array's path runs through."""
    if not component:
        return
    root = Path(os.path.abspath(url))
    try:
        group = zarr_python().open_group(root, mode="a", **({"zarr_format": zarr_format} if zarr_format else {}))
        if "/" in component:
            group.require_group(component.rpartition("/")[0])
    except Exception as error:
        raise StorageError(f"making the group of zarr array {root}/{component} failed: {error}") from error


def _create(url: Any, component: str | None, overwrite: bool, storage_options: Any, kwargs: Mapping[str, Any]) -> Any:
    try:
        return zarr_python().create_array(
            url, name=component, overwrite=overwrite, storage_options=storage_options, **kwargs
        )
    except (TypeError, MemoryError):  # a wrong argument is the caller's business
        raise
    except Exception as error:
        where = f"{url}/{component}" if component else str(url)
        raise StorageError(f"making zarr array {where} failed: {type(error).__name__}: {error}") from error


def _check_free(url: Any, component: str | None, overwrite: bool, storage_options: Any) -> None:
    """Raise StorageError if something is there that must not be replaced."""
    where = f"{url}/{component}" if component else str(url)
    found = _found(url, component, storage_options)
    if isinstance(found, zarr_python().Group):
        raise StorageError(f"{where} is a zarr group, which is not replaced by an array; give component=")
    if found is not None and not overwrite:
        raise StorageError(f"{where} holds a zarr array already; use overwrite=True to replace it")
    place = local_place(url, component)
    if found is None and place is not None and place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise StorageError(f"{where} exists and is no zarr array; it is left alone")


def _found(url: Any, component: str | None, storage_options: Any) -> Any:
    """The array or group that is there, or None."""
    options = {"storage_options": dict(storage_options)} if storage_options else {}
    try:
        return zarr_python().open(url, path=component or "", mode="r", **options)
    except Exception:  # whatever is wrong with it: there is nothing that zarr can read
        return None
