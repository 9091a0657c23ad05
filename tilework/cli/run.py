"""``tilework run`` and ``tilework explain``: somebody's script, unmodified, with tilework around it.

What a script prints stays on standard output; everything of ours goes to standard error, but for explanations, which
are what was asked for.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from tilework import session
from tilework.base import config
from tilework.base.errors import ConfigError, UnsupportedError
from tilework.cli import script
from tilework.diagnostics.history import History
from tilework.diagnostics.progress import ProgressBar
from tilework.diagnostics.report import Summary, check_report_path, write_report
from tilework.distributed.client import Client

SHORT = 0.5
"""Computations that take fewer seconds show no progress of their own."""


def run(options: argparse.Namespace) -> int:
    """Run a script with progress and a closing summary; return its exit code."""
    if options.report:
        check_report_path(options.report)
    if options.scheduler is None and options.workers is not None:
        options.scheduler = "processes"
    _settle(options)
    history = History(memory=True).register()
    try:
        ProgressBar(minimum=SHORT).register()
    except UnsupportedError as error:
        print(f"tilework: {error}", file=sys.stderr)
    with _cluster():
        code = _execute(options)
    summary = Summary.of(history.runs)
    print(f"\n{summary}", file=sys.stderr)
    if options.report:
        write_report(options.report, summary, history.runs, os.path.basename(options.script))
        print(f"report               {options.report}", file=sys.stderr)
    return code


def explain(options: argparse.Namespace) -> int:
    """Run a script up to its first computation and explain that; return an exit code."""
    _settle(options)
    explained = 0

    def explain_plan(prepared: session.Prepared) -> None:
        nonlocal explained
        explained += 1
        print(f"{'' if explained == 1 else chr(10)}Computation {explained}: {prepared.explanation()}", flush=True)
        if not options.all:
            raise _Explained

    session.before_run.set(explain_plan)
    code = _execute(options)
    if not explained:
        print("tilework: the script computes nothing with tilework", file=sys.stderr)
    return code


class _Explained(BaseException):
    """Ends a script once its first computation is explained. No Exception, so that scripts do not catch it."""


def _settle(options: argparse.Namespace) -> None:
    """Make the settings hold for the whole process, threads of the script included."""
    if not os.path.isfile(options.script):
        raise ConfigError(f"there is no script {options.script!r}; name a Python file")
    given = {name: getattr(options, name) for name in ("scheduler", "workers", "memory")}
    config.set(**{name: value for name, value in given.items() if value is not None})

    def choose_tilework(xarray: ModuleType) -> None:
        xarray.set_options(chunk_manager="tilework")

    script.after_import("xarray", choose_tilework)


@contextmanager
def _cluster() -> Iterator[None]:
    """A client around the script, if it is to run on a cluster: one that is there, or one that ends with the script.

    A ``Client()`` in the script connects to the same one.
    """
    settings = config.get()
    if settings.scheduler == "processes":
        limit = "auto" if settings.memory is None else settings.memory // config.resolve_workers(settings)
        client = Client(n_workers=settings.workers, memory_limit=limit)
    elif isinstance(settings.scheduler, str) and "://" in settings.scheduler:
        client = Client(settings.scheduler)
    else:
        yield
        return
    with client:
        os.environ[config.ADDRESS_VARIABLE] = client.scheduler_info()["address"]
        print(f"status page          {client.dashboard_link}", file=sys.stderr)
        try:
            yield
        finally:
            del os.environ[config.ADDRESS_VARIABLE]


def _execute(options: argparse.Namespace) -> int:
    """Run the script to its end, whatever that is; return its exit code."""
    try:
        script.execute(options.script, options.args)
    except _Explained:
        return 0
    except BaseException as error:
        return script.report_error(error)
    finally:
        sys.stdout.flush()
    return 0
