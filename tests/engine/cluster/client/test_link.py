"""The client's connection, against a scheduler that is played by the test."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
import pytest

from tilework.base.errors import ClusterClosedError, ConfigError, ConnectionLostError
from tilework.engine.cluster.client.interrupts import Deferred
from tilework.engine.cluster.client.known import CANCELLED, ERROR, FINISHED, LOST, PENDING, State
from tilework.engine.cluster.client.link import Link
from tilework.engine.cluster.store import values
from tilework.engine.cluster.store.arena import Arena, Slot
from tilework.engine.cluster.wire import messages
from tilework.engine.cluster.wire.channel import Channel


class Scheduler:
    """The other end. What was sent is in ``received``; ``on`` says what to answer to a kind of message."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.arena = Arena.create(2, 1 << 24)
        self.slot = Slot(self.arena, 1, 0)
        self.channel = Channel(theirs)
        self.received: list[Any] = []
        self.on: dict[type, Callable[[Any], list[Any]]] = {}
        welcome = messages.Welcome(3, 0, self.arena.place, 1 << 24, "tcp://127.0.0.1:1", None, "played")
        self.link = Link(ours, Channel(ours), welcome, Arena.open(self.arena.place))
        self._arrived = threading.Condition()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while True:
                for message in self.channel.receive_blocking():
                    with self._arrived:
                        self.received.append(message)
                        self._arrived.notify_all()
                    for answer in self.on.get(type(message), lambda _: [])(message):
                        self.channel.send(answer)
        except (ConnectionLostError, OSError, ValueError):
            pass

    def say(self, *what: Any) -> None:
        for message in what:
            self.channel.send(message)

    def hear(self, kind: type, n: int = 1) -> list[Any]:
        """Wait for so many messages of a kind."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.of(kind)) >= n, 10), f"no {kind.__name__}: {self.received}"
            return self.of(kind)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.received if type(message) is kind]

    def done(self, *states: State, value: Any = 1) -> messages.Done:
        blob = pickle.dumps(value)
        return messages.Done([s.number for s in states], [blob] * len(states), [len(blob)] * len(states))

    def close(self) -> None:
        self.link.close()
        self.channel.close()


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    played = Scheduler()
    yield played
    played.close()


@pytest.fixture
def link(scheduler: Scheduler) -> Link:
    return scheduler.link


def interrupt_when(event: threading.Event) -> threading.Thread:
    """Ctrl-C in the main thread once something has happened."""

    def press() -> None:
        assert event.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


# ---------------------------------------------------------------- futures


def test_numbers_are_the_clients_and_follow_one_another(link: Link) -> None:
    states = link.reserve(3) + link.reserve(1)
    assert [state.number for state in states] == [(3 << 40) + k for k in range(4)]
    assert link.key_of(states[0].number) == states[0].key == f"future-{3 << 40:x}"


def test_small_values_come_with_the_news(scheduler: Scheduler, link: Link) -> None:
    a, b = link.reserve(2)
    scheduler.say(scheduler.done(a, b, value=[1, 2]))
    assert link.wait_done([a, b], 10)
    first, second = link.load([a, b])
    assert first == second == [1, 2]
    assert first is not second
    assert not scheduler.of(messages.Get)


def test_large_values_are_views_and_unpinned_when_nobody_looks(scheduler: Scheduler, link: Link) -> None:
    array = np.arange(50_000.0)
    stored, size = values.dump(array, scheduler.slot)
    scheduler.on[messages.Get] = lambda get: [messages.Values(get.request, [stored] * len(get.futures))]
    (state,) = link.reserve(1)
    scheduler.say(messages.Done([state.number], [None], [size]))
    link.wait_done([state])
    (found,) = link.load([state])
    assert np.array_equal(found, array)
    assert not found.flags.writeable
    part = found[10:20]
    del found
    link.poll()
    assert not scheduler.of(messages.Unpin)
    del part
    assert scheduler.hear(messages.Unpin)[0].futures == [state.number]


def test_errors_and_cancellations(scheduler: Scheduler, link: Link) -> None:
    failed, cancelled = link.reserve(2)
    scheduler.say(
        messages.Erred([failed.number], values.dump_error(ZeroDivisionError("by zero"))),
        messages.Erred([cancelled.number], b"", True),
    )
    assert link.wait_done([failed, cancelled], 10)
    assert (failed.status, cancelled.status) == (ERROR, CANCELLED)
    assert isinstance(link.failure(failed), ZeroDivisionError)
    assert isinstance(link.failure(cancelled), CancelledError)


def test_waiting_until_a_failure(scheduler: Scheduler, link: Link) -> None:
    states = link.reserve(3)
    scheduler.say(messages.Erred([states[1].number], values.dump_error(ValueError("no"))))
    assert link.wait_done(states, 10, until_failure=True)
    assert [state.status for state in states] == [PENDING, ERROR, PENDING]
    assert not link.wait_done(states, 0.01)


def test_what_was_cancelled_stays_so_although_it_is_done(scheduler: Scheduler, link: Link) -> None:
    a, b = link.reserve(2)
    link.cancel([a], force=False)
    assert a.status == CANCELLED
    scheduler.say(scheduler.done(a, b))
    link.wait_done([b])
    assert a.status == CANCELLED
    link.retry([a])
    assert a.status == PENDING
    assert scheduler.hear(messages.Retry)[0].futures == [a.number]


def test_dropped_futures_are_released_together(scheduler: Scheduler, link: Link) -> None:
    states = link.reserve(100)
    scheduler.say(scheduler.done(*states))
    link.wait_done(states)
    for state in states[1:]:
        link.drop(state)
    link.send(messages.Unpin([]))
    assert not scheduler.of(messages.Release)
    link.drop(link.reserve(1)[0])  # one that is pending: it may not run
    states.append(State((3 << 40) + 100, ""))
    assert scheduler.hear(messages.Release)[0].futures == [state.number for state in states[1:]]


def test_pending_futures_are_released_at_once(scheduler: Scheduler, link: Link) -> None:
    (state,) = link.reserve(1)
    link.drop(state)
    assert scheduler.hear(messages.Release)[0].futures == [state.number]


def test_a_future_of_another_client_is_followed(scheduler: Scheduler, link: Link) -> None:
    number = (9 << 40) + 5
    scheduler.on[messages.Follow] = lambda follow: [messages.Done(follow.futures, [pickle.dumps("theirs")], [1])]
    state, again = link.meet(number), link.meet(number)
    assert state is again
    assert link.wait_done([state], 10)
    assert link.load([state]) == ["theirs"]
    assert len(scheduler.of(messages.Follow)) == 1
    link.drop(state)
    link.drop(state)
    link.drop(link.reserve(1)[0])
    assert scheduler.hear(messages.Release)[0].futures == [number, 3 << 40]


def test_references_may_be_dropped_while_something_is_sent(scheduler: Scheduler, link: Link) -> None:
    """The garbage collector may run anywhere, also in the midst of sending."""
    (state,) = link.reserve(1)

    class Late:
        def __reduce__(self) -> tuple[Any, ...]:
            link.drop(state)
            return int, ()

    link.send(messages.Request(0, "x", (Late(),)))
    assert scheduler.hear(messages.Release)[0].futures == [state.number]


# ---------------------------------------------------------------- requests


def test_requests(scheduler: Scheduler, link: Link) -> None:
    scheduler.on[messages.Request] = lambda asked: [
        messages.Reply(asked.number, asked.args)
        if asked.method == "echo"
        else messages.Reply(asked.number, None, "too small", "ConfigError")
    ]
    assert link.request("echo", 1, 2) == (1, 2)
    with pytest.raises(ConfigError, match="too small"):
        link.request("scale", -1)


def test_an_answer_that_comes_too_late_is_ignored(scheduler: Scheduler, link: Link) -> None:
    with pytest.raises(TimeoutError, match="'info'"):
        link.request("info", timeout=0.01)
    (late,) = scheduler.hear(messages.Request)
    scheduler.on[messages.Request] = lambda asked: [messages.Reply(asked.number, "new")]
    scheduler.say(messages.Reply(late.number, "old"))
    assert link.request("info") == "new"


def test_values_that_nobody_waits_for_any_more_are_unpinned(scheduler: Scheduler, link: Link) -> None:
    stored, size = values.dump(np.zeros(50_000), scheduler.slot)
    (state,) = link.reserve(1)
    scheduler.say(messages.Done([state.number], [None], [size]))
    link.wait_done([state])
    with pytest.raises(TimeoutError):
        link.load([state], timeout=0.01)
    (get,) = scheduler.hear(messages.Get)
    scheduler.say(messages.Values(get.request, [stored]))
    other = link.reserve(1)
    scheduler.say(scheduler.done(*other))
    link.wait_done(other)
    assert scheduler.hear(messages.Unpin)[0].futures == [state.number]


def test_progress_goes_to_who_watches(scheduler: Scheduler, link: Link) -> None:
    seen: list[messages.Progress] = []
    state, end = link.reserve(2)
    link.watch(state.number, seen.append)
    message = messages.Progress(state.number, 0, [1, 2], 0.0, 1.0, 10, 0)
    scheduler.say(message, message._replace(first=1), scheduler.done(end))
    link.wait_done([end])
    assert seen == [message]


# ---------------------------------------------------------------- threads


def test_many_threads_wait_and_one_reads(scheduler: Scheduler, link: Link) -> None:
    states = link.reserve(20)
    found: dict[int, bool] = {}

    def wait(k: int) -> None:
        found[k] = link.wait_done([states[k]], 10)

    threads = [threading.Thread(target=wait, args=(k,)) for k in range(20)]
    for thread in threads:
        thread.start()
    for state in reversed(states):
        scheduler.say(scheduler.done(state))
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(20), True)
    assert link._thread is None


def test_callbacks_are_called_in_a_thread_and_may_wait(scheduler: Scheduler, link: Link) -> None:
    first, second, third = link.reserve(3)
    called: list[Any] = []
    end = threading.Event()

    def then() -> None:
        scheduler.say(scheduler.done(second))
        called.append((link.wait_done([second], 10), threading.current_thread().name))

    link.call_when_done(first, then)
    link.call_when_done(third, end.set)
    scheduler.say(scheduler.done(first), scheduler.done(third))
    assert end.wait(10)
    assert called == [(True, "tilework-client")]


def test_a_callback_that_raises_stops_nothing(
    scheduler: Scheduler, link: Link, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = link.reserve(2)
    end = threading.Event()
    link.call_when_done(first, lambda: 1 // 0)
    link.call_when_done(second, end.set)
    scheduler.say(scheduler.done(first, second))
    assert end.wait(10)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_callbacks_of_done_and_of_lost_futures(scheduler: Scheduler, link: Link) -> None:
    done, lost = link.reserve(2)
    scheduler.say(scheduler.done(done))
    link.wait_done([done])
    events = [threading.Event() for _ in range(3)]
    link.call_when_done(done, events[0].set)
    link.call_when_done(lost, events[1].set)
    assert events[0].wait(10)
    link.close()
    assert events[1].wait(10)
    link.call_when_done(lost, events[2].set)
    assert events[2].wait(10)


# ---------------------------------------------------------------- Ctrl-C


def test_interrupted_waiting_loses_nothing(scheduler: Scheduler, link: Link) -> None:
    before = signal.getsignal(signal.SIGINT)
    for _ in range(20):
        states = link.reserve(2)
        waiting = threading.Event()
        thread = interrupt_when(waiting)

        def ready(states: list[State] = states, waiting: threading.Event = waiting) -> bool:
            waiting.set()
            scheduler.say(scheduler.done(states[0]))
            return False

        with pytest.raises(KeyboardInterrupt):
            link.wait(ready)
        thread.join()
        scheduler.say(scheduler.done(states[1]))
        assert link.wait_done(states, 10)
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupted_while_another_thread_reads(scheduler: Scheduler, link: Link) -> None:
    """The main thread is a follower."""
    first, second = link.reserve(2)
    thread = threading.Thread(target=link.wait_done, args=([first],))
    thread.start()
    waiting = threading.Event()
    press = interrupt_when(waiting)
    with pytest.raises(KeyboardInterrupt):
        link.wait(lambda: waiting.set())
    press.join()
    scheduler.say(scheduler.done(first, second))
    thread.join()
    assert link.wait_done([second], 10)


def test_a_handler_of_the_programs_own_is_called(scheduler: Scheduler, link: Link) -> None:
    (state,) = link.reserve(1)
    pressed: list[int] = []

    def handler(number: int, frame: Any) -> None:
        pressed.append(number)
        scheduler.say(scheduler.done(state))

    before = signal.signal(signal.SIGINT, handler)
    try:
        waiting = threading.Event()
        thread = interrupt_when(waiting)
        assert link.wait(lambda: waiting.set() or state.status == FINISHED, 10)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert pressed == [signal.SIGINT]


def test_interrupted_while_something_is_destroyed() -> None:
    """Exceptions are ignored there: the interrupt comes afterwards."""

    class Dying:
        def __del__(self) -> None:
            with Deferred(destroying=True):
                signal.raise_signal(signal.SIGINT)

    dying = [Dying()]
    dying.clear()
    with pytest.raises(KeyboardInterrupt):
        threading.Event().wait(10)


# ---------------------------------------------------------------- the end


def test_a_scheduler_that_is_gone(scheduler: Scheduler, link: Link) -> None:
    state, other = link.reserve(2)
    scheduler.say(scheduler.done(other))
    link.wait_done([other])
    scheduler.channel._socket.shutdown(socket.SHUT_RDWR)
    assert link.wait_done([state], 10)
    assert state.status == LOST
    assert isinstance(link.failure(state), ConnectionLostError)
    with pytest.raises(ConnectionLostError, match=r"tcp://127\.0\.0\.1:1 has ended"):
        link.send(messages.Release([]))
    assert link.load([other]) == [1]


def test_a_scheduler_that_says_goodbye(scheduler: Scheduler, link: Link) -> None:
    scheduler.say(messages.Closing("it was idle for 60 s"))
    with pytest.raises(ConnectionLostError, match="idle for 60 s"):
        link.wait(lambda: False, 10)


def test_closing_ends_all_waiting(scheduler: Scheduler, link: Link) -> None:
    (state,) = link.reserve(1)
    thread = threading.Thread(target=link.wait_done, args=([state],))
    thread.start()
    link.close()
    link.close()
    thread.join(10)
    assert not thread.is_alive()
    assert state.status == LOST
    with pytest.raises(ClusterClosedError, match="client was closed"):
        link.send()
    with pytest.raises(ClusterClosedError):
        link.request("info")


def test_values_stay_valid_after_closing(scheduler: Scheduler, link: Link) -> None:
    stored, size = values.dump(np.ones(50_000), scheduler.slot)
    scheduler.on[messages.Get] = lambda get: [messages.Values(get.request, [stored])]
    (state,) = link.reserve(1)
    scheduler.say(messages.Done([state.number], [None], [size]))
    link.wait_done([state])
    (found,) = link.load([state])
    link.close()
    assert scheduler.hear(messages.Release)[0].futures == [state.number]
    assert not scheduler.of(messages.Unpin)
    assert scheduler._thread.is_alive()
    del found
    gc.collect()
    scheduler.hear(messages.Unpin)
    scheduler._thread.join(10)
    assert not scheduler._thread.is_alive()


def test_a_forked_process_cannot_use_it(scheduler: Scheduler, link: Link) -> None:
    (state,) = link.reserve(1)
    result = link.empty((1 << 20,), np.dtype(float))
    result[:] = 7
    link.slot.warm_limit = 0
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            del result
            gc.collect()
            link.send(messages.Release([1]))
        except ClusterClosedError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with open(read, "rb") as file:
        assert b"was forked" in file.read()
    assert set(result.tolist()) == {7.0}  # the child has given it back, but to nobody
    scheduler.say(scheduler.done(state))
    assert link.wait_done([state], 10)
    assert not scheduler.of(messages.Release)
