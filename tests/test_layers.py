"""The architecture, checked: the contracts in pyproject.toml, and what importing tilework costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
FOREIGN = ["bokeh", "dask", "distributed", "netCDF4", "pandas", "scipy", "tqdm", "xarray", "zarr"]


def loaded_after(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_imports_go_down_only(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


@pytest.mark.parametrize("statement", ["import tilework", "import tilework as tw; tw.config.get()"])
def test_importing_tilework_loads_no_optional_library(statement: str) -> None:
    assert loaded_after(statement).isdisjoint(FOREIGN)


def test_importing_the_arrays_loads_no_optional_library() -> None:
    assert loaded_after("import tilework.array").isdisjoint(FOREIGN)
