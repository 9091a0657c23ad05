"""The page about Dask's names, held against the namespaces of both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import dask.array
import distributed
import pytest

import tilework.array
import tilework.distributed

PAGE = (Path(__file__).parents[2] / "docs" / "dask-names.md").read_text("utf-8")
SECTION = re.compile(r"^## `((?:dask\.array|distributed)[\w.]*)`\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `(\w+)` \| (different|later|left out) \| (.+) \|$", re.MULTILINE)
SECTIONS = dict(SECTION.findall(PAGE))


def done(section: str) -> list[str]:
    paragraph = section[: section.find("\n\n|")] if "\n\n|" in section else section
    return re.findall(r"`(\w+)`", paragraph)


def others(section: str) -> dict[str, str]:
    return {name: status for name, status, _ in ROW.findall(section)}


def lookup(roots: Any, path: str) -> Any:
    """What ``dask.array.random`` is in Dask or in tilework: ``roots`` are the modules of arrays and of clusters."""
    name = "dask.array" if path.startswith("dask") else "distributed"
    found = roots[name == "distributed"]
    for part in path.removeprefix(name).split(".")[1:]:
        found = getattr(found, part)
    return found


DASK = (dask.array, distributed)
TILEWORK = (tilework.array, tilework.distributed)


def public(thing: Any) -> set[str]:
    """``__all__`` of a module, or what it defines; the attributes of a class."""
    names = [name for name in dir(thing) if not name.startswith("_")]
    if isinstance(thing, type):
        return set(names)
    listed = getattr(thing, "__all__", None)
    return set(listed or (n for n in names if getattr(getattr(thing, n), "__module__", "") == thing.__name__))


@pytest.mark.parametrize("path", SECTIONS)
def test_page_lists_every_name_of_dask(path: str) -> None:
    listed = [*done(SECTIONS[path]), *others(SECTIONS[path])]
    assert sorted(listed) == sorted(public(lookup(DASK, path)))


@pytest.mark.parametrize("path", SECTIONS)
def test_what_is_done_is_there_and_what_is_not_is_absent(path: str) -> None:
    ours = lookup(TILEWORK, path)
    assert [name for name in done(SECTIONS[path]) if not hasattr(ours, name)] == []
    assert [
        name for name, status in others(SECTIONS[path]).items() if status != "different" and hasattr(ours, name)
    ] == []


def test_every_place_with_names_is_on_the_page() -> None:
    assert {"dask.array", "dask.array.Array"} < set(SECTIONS)
    modules = {"linalg", "fft", "random", "overlap"}
    assert {f"dask.array.{name}" for name in modules} < set(SECTIONS)
    assert {f"dask.array.random.{name}" for name in ("Generator", "RandomState")} < set(SECTIONS)
    assert {"distributed", *[f"distributed.{name}" for name in ("Client", "Future", "LocalCluster")]} < set(SECTIONS)


def test_nearly_all_of_arrays_are_done() -> None:
    arrays = [section for path, section in SECTIONS.items() if path.startswith("dask.array")]
    finished = sum(len(done(section)) for section in arrays)
    assert finished >= 0.95 * (finished + sum(len(others(section)) for section in arrays))


def test_functions_of_the_namespace_are_exported() -> None:
    exported = set(tilework.array.__all__)
    assert [name for name in done(SECTIONS["dask.array"]) if name not in exported and name != "lib"] == []
