from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Tilework = Callable[..., subprocess.CompletedProcess[str]]


def test_doctor_says_what_there_is(tilework: Tilework, tmp_path: Path) -> None:
    done = tilework("doctor", TILEWORK_MEMORY="1 GiB", TILEWORK_WORKERS="3", TILEWORK_SPILL_DIRECTORY=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    for pattern in [
        r"tilework +\S",
        r"python +3\.",
        r"numpy +[2-9]",
        r"cores +3 workers on \d+ usable cores",
        r"memory +[\d.]+ .iB.*available",
        r"budget +1\.0 GiB",
        r"open files +\S",
        rf"temporary +[\d.]+ .iB free in {re.escape(str(tmp_path))}",
        r"shared memory +\S",
        r"memory +1073741824 \(TILEWORK_MEMORY\)",
    ]:
        assert re.search(pattern, done.stdout), pattern


def test_doctor_tries_every_extra(tilework: Tilework) -> None:
    done = tilework("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    for extra in ["zarr", "xarray", "linalg", "progress", "visualize"]:
        assert re.search(rf"  {extra} +works: ", done.stdout), done.stdout
    assert re.search(r"  processes +work: a worker answered after \d", done.stdout) or sys.platform != "linux"


def test_doctor_tells_missing_from_broken(tilework: Tilework, tmp_path: Path) -> None:
    # A tqdm that is installed but cannot be imported comes first on the path.
    (tmp_path / "tqdm").mkdir()
    (tmp_path / "tqdm" / "__init__.py").write_text("raise RuntimeError('no good')")
    root = str(Path(__file__).parents[2])
    done = tilework("doctor", PYTHONPATH=os.pathsep.join([str(tmp_path), root]))
    assert done.returncode == 1
    assert re.search(r"progress +BROKEN: tqdm .*RuntimeError: no good", done.stdout)
