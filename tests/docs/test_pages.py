"""The code in the documentation runs: the Python blocks of a page one after another, as a reader would type them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def as_program(text: str) -> str:
    """All Python blocks of a page as one program that keeps the page's line numbers."""
    lines = [""] * text.count("\n")
    for block in BLOCK.finditer(text):
        first = text.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines).rstrip() + "\n"


def test_a_block_stands_where_it_stands_on_the_page() -> None:
    page = "# Title\n\n```python\nx = 1\n```\ntext\n```sh\nrm -rf x\n```\n```python\ny = 2\n\nz = 3\n```\n"
    assert as_program(page).splitlines() == [*[""] * 3, "x = 1", *[""] * 6, "y = 2", "", "z = 3"]


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text("utf-8"))], ids=lambda p: p.name)
def test_code_of_page_runs(page: Path, tmp_path: Path) -> None:
    # Under the page's own name and line numbers, so that a traceback points into the page.
    (tmp_path / page.name).write_text(as_program(page.read_text("utf-8")), "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", page.name],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "agg"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_links_of_page_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
