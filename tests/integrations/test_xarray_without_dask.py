"""The same operations where Dask, Distributed and flox are not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import importlib.abc
import importlib.util
import sys

import pytest

MISSING = {"dask", "distributed", "flox"}
found = importlib.util.find_spec


class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


importlib.util.find_spec = lambda name, *args: None if name.partition(".")[0] in MISSING else found(name, *args)
sys.meta_path.insert(0, Missing())
code = pytest.main([*sys.argv[1:], "-q", "-p", "no:cacheprovider"])
assert not MISSING & set(sys.modules), "imported after all"
sys.exit(code)
"""


def test_operations_and_writing() -> None:
    here = Path(__file__).parent
    files = [str(here / f"test_xarray_{name}.py") for name in ("operations", "groupby", "mapping", "writing")]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *files], capture_output=True, text=True, cwd=here.parents[1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
