"""Arguments of the command line, and which function does what they ask."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, TypeAlias

from tilework.base.errors import TileworkError
from tilework.cli import cluster, doctor, run

if TYPE_CHECKING:
    _Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.do(options))
    except (
        TileworkError
    ) as error:  # in what was typed, or there is no such cluster; a script's errors are its own affair
        print(f"tilework: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tilework", description="Parallel arrays in bounded memory.")
    parser.add_argument("--version", action="version", version=f"tilework {_version()}")
    commands = parser.add_subparsers(metavar="command", required=True)
    _add_scripts(commands)
    _add_clusters(commands)
    doctors = commands.add_parser("doctor", help="say what this machine has and which extras work")
    doctors.set_defaults(do=lambda _: doctor.doctor())
    return parser


def _add_scripts(commands: _Commands) -> None:
    runs = commands.add_parser(
        "run",
        help="run a script with tilework behind xarray, show progress and sum up",
        description="Run a Python script as it is, with tilework as xarray's default for chunked arrays. Shows "
        "progress while it computes, and afterwards says what it cost.",
    )
    runs.set_defaults(do=run.run)
    runs.add_argument(
        "--scheduler",
        metavar="NAME",
        help="threads, sync, processes, or the address of a cluster (tcp://127.0.0.1:PORT)",
    )
    runs.add_argument(
        "--workers",
        metavar="N",
        help="worker processes of a cluster around the script; with --scheduler threads, tasks at a time",
    )
    runs.add_argument("--report", metavar="FILE", help="write a report: FILE.html or FILE.json")
    explains = commands.add_parser(
        "explain",
        help="say what a script would compute, and what that would cost",
        description="Run a Python script up to its first computation, and explain that instead of running it.",
    )
    explains.set_defaults(do=run.explain)
    explains.add_argument("--all", action="store_true", help="explain every computation, and run them all")
    explains.add_argument("--scheduler", metavar="NAME", help="threads or sync")
    explains.add_argument("--workers", metavar="N", help="tasks at a time (default: the cores)")
    for command in (runs, explains):
        command.add_argument(
            "--memory", metavar="SIZE", help='memory budget such as "2GiB" (default: 60%% of what there is)'
        )
        command.add_argument("script", help="path of the script")
        command.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")


def _add_clusters(commands: _Commands) -> None:
    description = "Clusters of worker processes on this machine that no program owns: any of yours may use them."
    parser = commands.add_parser("cluster", help="start, list, scale and stop clusters", description=description)
    actions = parser.add_subparsers(metavar="action", required=True)

    starts = actions.add_parser("start", help="start a cluster that outlives this shell")
    starts.set_defaults(do=cluster.start)
    starts.add_argument("--workers", metavar="N", type=int, help="worker processes (default: by the cores)")
    starts.add_argument("--threads", metavar="T", type=int, help="tasks at a time of each (default: by the cores)")
    starts.add_argument(
        "--memory-limit", metavar="SIZE", default="auto", help="of each worker (default: by what there is)"
    )
    starts.add_argument("--port", metavar="P", type=int, default=0, help="on 127.0.0.1 (default: any that is free)")
    starts.add_argument("--name", metavar="NAME", help="what to call it")
    starts.add_argument(
        "--idle-timeout",
        metavar="TIME",
        default="1h",
        help='how long without clients and work, or "never" (default: 1h)',
    )
    starts.add_argument("--log", metavar="FILE", help="where what tasks print is appended (default: nowhere)")
    starts.add_argument("--foreground", action="store_true", help="stay, show what tasks print, and end it by Ctrl-C")

    lists = actions.add_parser("list", help="running clusters: address, workers, memory, age")
    lists.set_defaults(do=cluster.list_clusters)
    lists.add_argument("--json", action="store_true", help="as JSON")

    scales = actions.add_parser("scale", help="change how many workers a cluster has, while it works")
    scales.set_defaults(do=cluster.scale)
    scales.add_argument("cluster", help="name or address")
    scales.add_argument("workers", metavar="N", type=int, help="how many there should be")

    stops = actions.add_parser("stop", help="end clusters, whatever they are doing")
    stops.set_defaults(do=cluster.stop)
    stops.add_argument("clusters", nargs="*", metavar="cluster", help="names or addresses")
    stops.add_argument("--all", action="store_true", help="all of yours")


def _version() -> str:
    try:
        return version("tilework")
    except PackageNotFoundError:  # used from a source tree
        return "(not installed)"
