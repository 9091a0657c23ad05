from __future__ import annotations

import threading

import pytest

from tilework.diagnostics import listeners
from tilework.diagnostics.listeners import Observer
from tilework.engine.events import Listener, RunEvent, RunFinished

END = RunFinished(0.0, 0, 0, None)


class Recorder(Observer):
    def __init__(self) -> None:
        self.runs: list[list[RunEvent]] = []

    def start_run(self) -> Listener:
        self.runs.append([])
        return self.runs[-1].append


class Loner(Recorder):
    exclusive = True


def tell() -> None:
    listener = listeners.for_run()
    if listener is not None:
        listener(END)


def test_nobody_listens() -> None:
    assert listeners.for_run() is None


def test_every_run_has_a_listener_of_its_own() -> None:
    with Recorder() as recorder:
        tell()
        tell()
    tell()
    assert recorder.runs == [[END], [END]]


def test_with_statement_is_for_its_own_thread() -> None:
    with Recorder() as here, Recorder().register() as everywhere:
        thread = threading.Thread(target=tell)
        thread.start()
        thread.join()
        everywhere.unregister()
    assert here.runs == []
    assert everywhere.runs == [[END]]


def test_registering_twice_is_registering_once() -> None:
    recorder = Recorder()
    assert recorder.register() is recorder
    with recorder.register():
        tell()
    recorder.unregister()
    recorder.unregister()
    tell()
    assert recorder.runs == [[END]]


def test_of_exclusive_observers_the_innermost_listens() -> None:
    outermost, outer, inner = Loner(), Loner(), Loner()
    with outer, inner, Recorder() as recorder:
        listener = listeners.for_run([outermost])
        assert listener is not None
        listener(END)
    assert (outermost.runs, outer.runs, inner.runs, recorder.runs) == ([], [], [[END]], [[END]])


def test_a_listener_that_raises_is_dropped_and_the_others_go_on() -> None:
    class Broken(Observer):
        def start_run(self) -> Listener:
            def listen(event: RunEvent) -> None:
                raise ValueError("broken")

            return listen

    with Broken(), Recorder() as recorder:
        listener = listeners.for_run()
        assert listener is not None
        with pytest.warns(RuntimeWarning, match="broken"):
            listener(END)
        listener(END)  # without a warning: it is gone
    assert recorder.runs == [[END, END]]
