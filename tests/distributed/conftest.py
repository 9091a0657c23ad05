"""One cluster for all tests that do not need their own: to start one takes half a second."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tilework.distributed import Client, LocalCluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=2, threads_per_worker=2, memory_limit="1GB", name="shared") as cluster:
        yield cluster


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    with Client(cluster) as client:
        yield client
