"""Clusters of real processes for the tests of the scheduler process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.cluster import real
from tests.engine.cluster.real import Gate, Real


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Real]:
    """A cluster, with the ``real.options`` that a test is marked with. It ends after the test's variables are gone."""
    with real.cluster(**getattr(request, "param", {})) as made:
        yield made


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)
