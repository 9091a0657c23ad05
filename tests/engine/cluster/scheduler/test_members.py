from __future__ import annotations

import pytest

from tilework.engine.cluster.scheduler.members import (
    CREDITS,
    LEAVING,
    SERVING,
    STARTING,
    Cause,
    Members,
    Worker,
    credits_of,
)
from tilework.engine.local.states import Run


@pytest.fixture
def members() -> Members:
    made = Members()
    for number in range(3):
        made.join(Worker(number, number, 2, None, 0.0, SERVING))
    return made


def give(members: Members, worker: Worker, tasks: int = 1, now: float = 0.0):  # type: ignore[no-untyped-def]
    return members.give(worker, worker.credit, Run(list(range(tasks))), now)


def test_room_is_what_threads_have_nothing_to_do(members: Members) -> None:
    worker = members.workers[0]
    assert worker.room == 2
    first, _, _ = (give(members, worker) for _ in range(3))
    assert worker.room == -1, "one waits"
    assert len({batch.credit for batch in worker.batches.values()}) == 3
    members.end(worker, first)
    assert worker.room == 0
    worker.blocked = 1
    assert worker.room == 1


def test_who_gets_nothing(members: Members) -> None:
    starting, leaving, killed = members.workers.values()
    starting.state, leaving.state, killed.cause = STARTING, LEAVING, Cause("restart")
    assert [worker.room for worker in members.workers.values()] == [0, 0, 0]


def test_a_cell_has_one_batch_on_its_first_credit(members: Members) -> None:
    worker = members.workers[1]
    worker.suspects = {5}
    assert (worker.room, worker.credit) == (1, CREDITS)
    give(members, worker)
    assert worker.room == 0


def test_what_was_not_started_is_asked_back_once(members: Members) -> None:
    first, second, _ = members.workers.values()
    running = [give(members, first, 1), give(members, first, 5)]
    waiting = give(members, first, 3, now=1.0)
    give(members, second, 1)
    assert members.ask_back(0.5, patience=1.0) == []
    assert members.ask_back(1.5, patience=1.0) == [(first, (running[1].number,))], "behind a task that takes long"
    assert members.ask_back(2.5, patience=1.0) == [(first, (waiting.number,))], "behind other batches"
    assert members.ask_back(9.0, patience=1.0) == []


def test_who_leaves_first(members: Members) -> None:
    busy, idle, starting = members.workers.values()
    give(members, busy)
    starting.state = STARTING
    assert members.to_leave(2) == [starting, idle]
    assert members.to_leave(-1) == []
    idle.state = LEAVING
    assert members.to_leave(3) == [starting, busy]


def test_numbers_are_used_again(members: Members) -> None:
    give(members, members.workers[1])
    members.leave(members.workers[1])
    assert members.batches == {}
    assert members.free_number() == 1


def test_workers_are_found_by_number_name_or_address(members: Members) -> None:
    assert members.find([2, "1", "tcp://127.0.0.1:8786/0"]) == [2, 1, 0]
    for name in (7, "worker", "7"):
        with pytest.raises(KeyError, match=str(name)):
            members.find([name])


def test_credits_tell_workers_apart() -> None:
    assert not set(credits_of([0, 2])) & set(credits_of([1]))
    assert len(credits_of([0, 1])) == 2 * CREDITS
