"""The benchmarks, one module an area. Each defines ``CASES``."""

from __future__ import annotations

from benchmarks.case import Case
from benchmarks.cases import arrays, calls, clusters, grouping, linalg, moving, plans, scheduling, storage, xarray_ops


def all_cases() -> dict[str, Case]:
    """Every case by name, in the order of the results."""
    modules = (calls, clusters, scheduling, plans, arrays, linalg, storage, grouping, moving, xarray_ops)
    return {case.name: case for module in modules for case in module.CASES}
