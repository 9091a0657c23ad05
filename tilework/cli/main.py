"""Arguments of the command line, and which function does what they ask."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from tilework.base.errors import ConfigError
from tilework.cli import doctor, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "doctor":
            return doctor.doctor()
        return run.run(options) if options.command == "run" else run.explain(options)
    except ConfigError as error:  # in what was typed; what a script raises is the script's own affair
        print(f"tilework: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tilework", description="Parallel arrays in bounded memory.")
    parser.add_argument("--version", action="version", version=f"tilework {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)

    runs = commands.add_parser(
        "run",
        help="run a script with tilework behind xarray, show progress and sum up",
        description="Run a Python script as it is, with tilework as xarray's default for chunked arrays. Shows "
        "progress while it computes, and afterwards says what it cost.",
    )
    explains = commands.add_parser(
        "explain",
        help="say what a script would compute, and what that would cost",
        description="Run a Python script up to its first computation, and explain that instead of running it.",
    )
    explains.add_argument("--all", action="store_true", help="explain every computation, and run them all")
    for command in (runs, explains):
        command.add_argument("--scheduler", metavar="NAME", help="threads or sync")
        command.add_argument("--workers", metavar="N", help="tasks at a time (default: the cores)")
        command.add_argument(
            "--memory", metavar="SIZE", help='memory budget such as "2GiB" (default: 60%% of what there is)'
        )
    runs.add_argument("--report", metavar="FILE", help="write a report: FILE.html or FILE.json")
    for command in (runs, explains):
        command.add_argument("script", help="path of the script")
        command.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")

    commands.add_parser("doctor", help="say what this machine has and which extras work")
    return parser


def _version() -> str:
    try:
        return version("tilework")
    except PackageNotFoundError:  # used from a source tree
        return "(not installed)"
