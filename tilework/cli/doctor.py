"""``tilework doctor``: what this machine has for us, and which extras work here.

An extra counts as working when it has just done something small; that a package is installed says little.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from tempfile import TemporaryDirectory, gettempdir

import numpy as np
import psutil

from tilework.base import config, machine
from tilework.base.sizes import format_bytes, format_count, format_time
from tilework.diagnostics.progress import ProgressBar
from tilework.distributed.client import Client


def doctor() -> int:
    """Print what there is; return 1 if something that is installed does not work."""
    _print("Versions", _versions())
    _print("Machine", _machine())
    _print("Settings", _settings())
    broken = False
    for title, tried in (("Clusters", [_clusters()]), ("Extras", list(_extras()))):
        _print(title, [(name, text) for name, text, _ in tried])
        broken = broken or any(fails for _, _, fails in tried)
    return int(broken)


def _print(title: str, rows: Iterator[tuple[str, str]] | list[tuple[str, str]]) -> None:
    print(title)
    for name, text in rows:
        print(f"  {name:<14} {text}")


def _versions() -> Iterator[tuple[str, str]]:
    yield "tilework", _version("tilework") or "used from a source tree"
    yield "python", f"{platform.python_version()} at {sys.executable}"
    yield "system", platform.platform()
    for name in ("numpy", "cloudpickle", "psutil"):
        yield name, _version(name) or "missing"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _machine() -> Iterator[tuple[str, str]]:
    settings = config.get()
    yield "cores", f"{config.resolve_workers(settings)} workers on {machine.cores()} usable cores of {os.cpu_count()}"
    installed, total = psutil.virtual_memory().total, machine.memory_total()
    limited = f" (a cgroup allows that much of {format_bytes(installed)})" if total < installed else ""
    yield "memory", f"{format_bytes(total)}{limited}, {format_bytes(machine.memory_available())} available"
    yield "budget", f"{format_bytes(config.resolve_memory(settings))} for blocks, scratch space and results"
    yield from _limits()
    for name, directory in (
        ("temporary", settings.spill_directory or gettempdir()),
        ("shared memory", "/dev/shm"),
    ):
        free = machine.free_space(directory)
        yield name, f"none: {directory} does not exist" if free is None else f"{format_bytes(free)} free in {directory}"


def _limits() -> Iterator[tuple[str, str]]:
    """What the system lets a process have."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    for name, limit, write in (
        ("address space", resource.RLIMIT_AS, format_bytes),
        ("open files", resource.RLIMIT_NOFILE, format_count),
    ):
        soft, _ = resource.getrlimit(limit)
        yield name, "unlimited" if soft == resource.RLIM_INFINITY else write(soft)


def _settings() -> Iterator[tuple[str, str]]:
    settings = config.get()
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            yield field.name, f"{value} (TILEWORK_{field.name.upper()})"
    if settings == config.Settings():
        yield "all", "as they are by default"


# ---------------------------------------------------------------- what is tried

Tried = tuple[str, str, bool]
"""Name, what to say of it, and whether it is broken."""


def _clusters() -> Tried:
    if not sys.platform.startswith("linux"):
        return "processes", f"only on Linux, and this is {sys.platform}", False
    start = time.perf_counter()
    try:
        with Client(n_workers=1, threads_per_worker=1, memory_limit="200 MB", set_as_default=False) as client:
            _expect(client.submit(sum, [1, 2]).result(timeout=60), 3)
    except Exception as error:
        return "processes", f"BROKEN: {type(error).__name__}: {error}", True
    return "processes", f"work: a worker answered after {format_time(time.perf_counter() - start)}", False


def _extras() -> Iterator[Tried]:
    for name, package, probe in (
        ("zarr", "zarr", _try_zarr),
        ("xarray", "xarray", _try_xarray),
        ("linalg", "scipy", _try_linalg),
        ("progress", "tqdm", _try_progress),
        ("visualize", "graphviz-pure", _try_visualize),
    ):
        installed = _version(package)
        if installed is None:
            yield name, f"missing: pip install 'tilework[{name}]'", False
            continue
        try:
            probe()
            yield name, f"works: {package} {installed}", False
        except Exception as error:
            yield name, f"BROKEN: {package} {installed}: {type(error).__name__}: {error}", True


def _try_zarr() -> None:
    import tilework.array as ta

    with TemporaryDirectory() as directory:
        ta.to_zarr(ta.arange(4, chunks=2), directory + "/x.zarr")
        _expect(ta.from_zarr(directory + "/x.zarr").sum().compute(), 6)


def _try_xarray() -> None:
    import xarray

    data = xarray.DataArray(np.arange(4), dims="x").chunk(x=2, chunked_array_type="tilework")
    _expect(data.sum().values, 6)


def _try_linalg() -> None:
    import tilework.array as ta

    _expect(ta.linalg.solve(2 * ta.eye(4, chunks=2), ta.ones(4, chunks=2)).sum().compute(), 2)


def _try_progress() -> None:
    import tilework.array as ta

    out = StringIO()
    with ProgressBar(file=out):
        ta.arange(4, chunks=2).sum().compute()
    _expect("100%" in out.getvalue(), True)


def _try_visualize() -> None:
    import tilework.array as ta

    _expect(b"<svg" in ta.arange(4, chunks=2).visualize(filename=None).render("svg"), True)


def _expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise RuntimeError(f"gave {found!r} in place of {wanted!r}")
