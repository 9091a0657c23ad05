"""What a client asks about its cluster, and does to all of it."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from tilework.base.errors import ConfigError, TileworkError, UnsupportedError
from tilework.base.sizes import parse_time
from tilework.distributed.future import futures_of
from tilework.engine.cluster.client.link import Link
from tilework.engine.cluster.store import values
from tilework.engine.cluster.wire.versions import mismatch, versions

_ANSWER_SECONDS = 5.0
"""Reprs wait no longer than this."""


class Administration:
    """What :class:`Client` can do besides computing. Workers are named by their numbers."""

    link: Link

    # ------------------------------------------------------------ asking

    def scheduler_info(self) -> dict[str, Any]:
        """What the cluster is: name, address, memory, and what each of its workers is and has."""
        info: dict[str, Any] = self.link.request("info")
        for worker in info["workers"].values():
            worker["nthreads"] = worker["threads"]  # as Dask has it
        return info

    def _info_or_none(self) -> dict[str, Any] | None:
        with suppress(TileworkError, TimeoutError):
            info: dict[str, Any] = self.link.request("info", timeout=_ANSWER_SECONDS)
            return info
        return None

    def nthreads(self) -> dict[int, int]:
        """How many tasks each worker runs at a time."""
        return {number: worker["threads"] for number, worker in self.scheduler_info()["workers"].items()}

    ncores = nthreads

    def who_has(self, futures: Any = None) -> dict[str, tuple[int, ...]]:
        """Which workers keep the values of futures, by key. All workers read them, wherever they are kept.

        Parameters
        ----------
        futures
            A future, or containers of futures; None is all that there are, also those of other clients.
        """
        if futures is None:
            found: dict[int, tuple[int, ...]] = self.link.request("who_has", None)
            return {self.link.key_of(number): tuple(workers) for number, workers in found.items()}
        wanted = futures_of(futures)
        found = self.link.request("who_has", [future.number for future in wanted])
        return {future.key: tuple(found.get(future.number, ())) for future in wanted}

    def has_what(self) -> dict[int, list[str]]:
        """Keys of the futures whose values each worker keeps."""
        kept: dict[int, list[str]] = {number: [] for number in self.scheduler_info()["workers"]}
        for key, workers in self.who_has().items():
            for worker in workers:
                kept.setdefault(worker, []).append(key)
        return kept

    def get_versions(self, check: bool = False) -> dict[str, Any]:
        """Versions of Python and what matters for pickles: of the client, the scheduler and the workers.

        Parameters
        ----------
        check
            Whether to raise ValueError if they do not fit.
        """
        found: dict[str, Any] = {"client": versions(), **self.link.request("versions")}
        if check:
            for there in [found["scheduler"], *found["workers"].values()]:
                problem = mismatch(there, found["client"])
                if problem is not None:
                    raise ValueError(problem)
        return found

    @property
    def dashboard_link(self) -> str | None:
        """Link to the status page, with the token that it wants; None if there is none."""
        return self.link.welcome.dashboard

    # ------------------------------------------------------------ doing

    def run(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        workers: int | str | Iterable[int | str] | None = None,
        on_error: str = "raise",
        **kwargs: Any,
    ) -> dict[int, Any]:
        """Call a function in every worker process, now, beside the tasks.

        Parameters
        ----------
        function, *args, **kwargs
            What to call.
        workers
            Only in these.
        on_error
            ``"raise"``, ``"return"`` the exception in the place of a result, or ``"ignore"`` that worker.

        Returns
        -------
        dict
            Results by worker.
        """
        if on_error not in ("raise", "return", "ignore"):
            raise ValueError(f'on_error={on_error!r} is not one of "raise", "return", "ignore"')
        chosen = None if workers is None else [workers] if isinstance(workers, int | str) else list(workers)
        return self._run("run", partial(function, *args, **kwargs), on_error, chosen)

    def register_worker_callbacks(self, setup: Callable[[], Any]) -> dict[int, Any]:
        """Call a function in every worker process, now, and in those that will be started before anything else."""
        return self._run("setup", setup, "raise")

    def _run(self, method: str, function: Callable[[], Any], on_error: str, *more: Any) -> dict[int, Any]:
        blob, _ = values.dump(function, self.link.slot, copy=True)
        results = {}
        for worker, (value, error) in self.link.request(method, blob, *more).items():
            if error is None:
                results[worker] = values.load(value, self.link.arena)
            elif on_error == "raise":
                raise values.load_error(error)
            elif on_error == "return":
                results[worker] = values.load_error(error)
        return results

    def run_on_scheduler(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Not possible: the scheduler runs no code of users', so that none can break it."""
        raise UnsupportedError("the scheduler runs no code of users'; run() calls a function in every worker process")

    def upload_file(self, filename: str | os.PathLike[str]) -> None:
        """Have a Python file, or a zip file of packages, importable on all workers.

        It is read where it is: the workers are on this machine. What was imported from an older one is imported anew.
        """
        path = os.path.abspath(filename)
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {path}")
        if not path.endswith((".py", ".zip", ".egg")):
            raise ConfigError(f"{path} cannot be imported; upload a .py, .zip or .egg file")
        self.register_worker_callbacks(partial(make_importable, path))

    def wait_for_workers(self, n_workers: int, timeout: float | str | None = None) -> None:
        """Wait until at least so many workers run. Raises TimeoutError if they do not in time."""
        seconds = None if timeout is None else parse_time(timeout, "timeout")
        self.link.request("wait_for_workers", n_workers, timeout=seconds)

    def restart(self, timeout: float | str | None = None) -> None:
        """Have new worker processes in the place of all there are, and cancel all futures of all clients."""
        self.link.request("restart", timeout=None if timeout is None else parse_time(timeout, "timeout"))

    def shutdown(self) -> None:
        """End the cluster, whoever started it, and close the client."""
        self.link.request("shutdown")
        self.close()

    def close(self) -> None:
        raise NotImplementedError


def make_importable(path: str) -> None:
    """What ``upload_file`` does in each worker."""
    name, ending = os.path.splitext(os.path.basename(path))
    place = os.path.dirname(path) if ending == ".py" else path
    if place not in sys.path:
        sys.path.insert(0, place)
    importlib.invalidate_caches()
    sys.modules.pop(name, None)
