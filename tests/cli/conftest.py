"""Real scripts in real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
Tilework = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def tilework(tmp_path: Path) -> Tilework:
    """Runs the command line in a directory of its own, and returns the finished process."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            [sys.executable, "-m", "tilework", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdin=subprocess.DEVNULL,
        )

    return run


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Writes a script and returns its name."""

    def write(code: str) -> str:
        (tmp_path / "script.py").write_text(dedent(code), encoding="utf-8")
        return "script.py"

    return write
