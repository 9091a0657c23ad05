from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilework.engine.cluster.scheduler.adaptive import PATIENCE_SECONDS, Adaptive, Load

GB = 1 << 30
IDLE = Load(0.0, 0, 0)


def adaptive(minimum: int = 0, maximum: int = 10, threads: int = 1) -> Adaptive:
    return Adaptive(minimum, maximum, threads, GB)


@pytest.mark.parametrize(
    ("load", "workers"),
    [
        (IDLE, 0),
        (Load(1e-3, 1000, 0), 1),  # many tasks, and hardly any work
        (Load(4.0, 100, 0), 4),
        (Load(100.0, 3, 0), 3),  # no more than can run at the same time
        (Load(1000.0, 1000, 0), 10),
        (Load(0.1, 1, 3 * GB), 5),  # blocks want memory, while there is work
        (Load(0.0, 0, 3 * GB), 0),
    ],
)
def test_how_many_workers_a_load_calls_for(load: Load, workers: int) -> None:
    assert adaptive().wish(load) == workers


def test_threads_count() -> None:
    assert adaptive(threads=4).wish(Load(8.0, 100, 0)) == 2


def test_more_come_at_once_and_fewer_only_after_a_while() -> None:
    some = adaptive()
    assert some.target(0.0, 0, Load(5.0, 100, 0)) == 5
    assert some.target(1.0, 5, IDLE) == 5
    assert some.target(PATIENCE_SECONDS - 0.1, 5, IDLE) == 5
    assert some.target(PATIENCE_SECONDS + 1.1, 5, IDLE) == 0


def test_a_swinging_load_keeps_its_workers() -> None:
    some, workers = adaptive(), 0
    seen = []
    for k in range(100):
        workers = some.target(k * 0.5, workers, Load(6.0, 100, 0) if k % 4 == 0 else IDLE)
        seen.append(workers)
    assert set(seen) == {6}


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50), st.integers(0, 10 * GB)), max_size=30),
)
def test_it_stays_within_its_bounds(minimum: int, more: int, loads: list[tuple[float, int, int]]) -> None:
    some, workers = adaptive(minimum, minimum + more), minimum
    for k, load in enumerate(loads):
        workers = some.target(k * 0.5, workers, Load(*load))
        assert minimum <= workers <= minimum + more
