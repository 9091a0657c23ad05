"""Runs the benchmarks: ``python -m benchmarks.run [CASE ...] [--rounds N] [--output FILE]``.

Every measurement is a fresh process; the peers of a case take turns, so that a machine that slows down slows all of
them. Shown are medians, and ratios of medians. Answers are compared, and a case whose answers differ fails the run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.case import Case
from benchmarks.cases import all_cases

Figures = dict[str, list[dict[str, Any]]]
KNOWN = {"wall", "cpu", "peak", "before", "answer"}
WORKER = "from benchmarks.worker import main; main()"
"""Not ``-m``: processes that a peer spawns would import the benchmarks, with all that they import, as ``__main__``."""


def measure(case: Case, rounds: int) -> tuple[Figures, dict[str, str]]:
    """All figures of a case by peer, and what went wrong by peer."""
    figures: Figures = {peer: [] for peer in case.peers}
    failed: dict[str, str] = {}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for k in range(rounds):
        for peer in case.peers:
            if peer in failed or k >= case.skip_rounds.get(peer, rounds):
                continue
            done = subprocess.run(
                [sys.executable, "-c", WORKER, case.name, peer],
                capture_output=True, text=True, timeout=1800, env=environment, check=False,
            )  # fmt: skip
            if done.returncode:
                failed[peer] = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
                print(f"  {case.name} / {peer}: {failed[peer]}", file=sys.stderr)
            else:
                figures[peer].append(json.loads(done.stdout.strip().splitlines()[-1]))
                print(f"  {case.name} / {peer}: {_line(figures[peer][-1], case.per)}", file=sys.stderr, flush=True)
    return figures, failed


def _line(figure: dict[str, Any], per: int) -> str:
    return f"wall {_time(figure['wall'], per)}, cpu {_time(figure['cpu'], per)}, peak {figure['peak'] / 1e6:.0f} MB"


def _time(seconds: float, per: int) -> str:
    return f"{seconds:.2f} s" if per == 1 else f"{seconds / per * 1e6:.2f} µs"


def _median(figures: list[dict[str, Any]], key: str) -> float:
    return statistics.median(f[key] for f in figures)


def section(case: Case, figures: Figures, failed: dict[str, str]) -> tuple[str, bool]:
    """The case's part of the results, and whether its answers agree."""
    answers = {peer: runs[0]["answer"] for peer, runs in figures.items() if runs}
    agree = case.agree(answers)
    lines = [f"### {case.title}", "", f"To reach: {case.goals}.", ""]
    unit = "" if case.per == 1 else " per task"
    more = sorted({key for runs in figures.values() for run in runs for key in run} - KNOWN)
    columns = [f"wall{unit}", f"CPU{unit}", "peak memory", "over start", *more]
    lines += [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for peer, runs in figures.items():
        if runs:
            peak, before = _median(runs, "peak"), _median(runs, "before")
            wall, cpu = _time(_median(runs, "wall"), case.per), _time(_median(runs, "cpu"), case.per)
            amounts = [peak, max(0, peak - before), *(_median(runs, key) for key in more)]
            lines.append(f"| {' | '.join([peer, wall, cpu, *(f'{amount / 1e6:.0f} MB' for amount in amounts)])} |")
        else:
            lines.append(f"| {peer} | failed: {failed.get(peer, '?')} {'| ' * len(columns)}|")
    if case.target and figures["tilework"] and figures.get(case.target[0]):
        peer, key = case.target
        ratio = _median(figures["tilework"], key) / _median(figures[peer], key)
        lines += ["", f"**tilework / {peer} ({key}): {ratio:.2f}**"]
    lines += ["", f"Answers {'agree' if agree else 'DIFFER'}; median of {max(map(len, figures.values()))} rounds.", ""]
    return "\n".join(lines), agree


def heading() -> str:
    """What was measured where."""
    names = ("numpy", "dask", "distributed", "frisky", "ray", "cubed", "xarray", "zarr", "joblib", "numexpr")
    versions = []
    for name in names:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    memory = psutil.virtual_memory().total / 2**30
    return (
        "# Benchmark results\n\n"
        f"Python {platform.python_version()}, {', '.join(versions)}; {os.cpu_count()} cores, {memory:.0f} GiB.\n\n"
        "Written by `make bench`. Each measurement is a fresh process, peers take turns, figures are medians. The "
        'machine is shared: read the ratios, not the seconds. "CPU" and "peak memory" are those of the process '
        'and of all that it starts, with imports and inputs; "over start" is what the work added to the peak.\n'
    )


def updated(old: str, parts: dict[str, str], titles: list[str]) -> str:
    """The results with the parts measured now in the place of what was there, cases in the order of ``titles``."""
    found = {part.splitlines()[0]: f"### {part}" for part in old.split("### ")[1:]}
    found |= {text.splitlines()[0].removeprefix("### "): text for text in parts.values()}
    return "\n".join([heading(), *(found[title].rstrip() + "\n" for title in titles if title in found)])


def main() -> int:
    """Run what was asked for."""
    cases = all_cases()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"which (default all): {', '.join(cases)}")
    parser.add_argument("--rounds", type=int, default=None, help="measurements of each peer")
    parser.add_argument(
        "--output", type=Path, default=None, help="file for the results; cases not run stay as they are"
    )
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in cases]:
        parser.error(f"unknown case {unknown[0]!r}; there are {', '.join(cases)}")
    parts: dict[str, str] = {}
    fine = True
    for name in options.cases or cases:
        figures, failed = measure(cases[name], options.rounds or cases[name].rounds)
        text, agree = section(cases[name], figures, failed)
        parts[name] = text
        fine = fine and agree and not (set(failed) & {"tilework"})
    old = options.output.read_text() if options.output and options.output.exists() else ""
    text = updated(old, parts, [case.title for case in cases.values()])
    print(text)
    if options.output:
        options.output.write_text(text)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
