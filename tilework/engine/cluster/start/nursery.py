"""The nursery: a process that has imported what workers need, and does nothing but fork, kill and bury them.

It has one thread, so that forking is safe and takes milliseconds. A few workers are forked before anybody asks: they
wait for their *order* (number, slot, socket). Each worker leads a session of its own, so that what its tasks have
started dies with it, and is killed by the kernel if the nursery dies.

Who outlives whom. If the scheduler dies, the nursery sees that their connection ends: it kills all workers, removes the
cluster's entry in the register, and ends. If the nursery dies, the scheduler counts its workers as killed and starts
another one, by ``exec``, since by now it has threads and connections that must not be inherited.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from tilework.base.errors import InternalError, TileworkError
from tilework.engine.cluster.start import boot
from tilework.engine.cluster.store.arena import Arena
from tilework.engine.cluster.wire import register
from tilework.engine.cluster.workers import worker
from tilework.engine.cluster.workers.worker import Order

SPARE = 2
"""Workers that wait for an order."""

_MESSAGE_BYTES = 1 << 16
_BURY_SECONDS = 2.0
_FAILURES = 3
_PAUSE_MS = 1000


class Exit(NamedTuple):
    """A worker process has ended: with an exit code, or by a signal (then ``code`` is its number, negative)."""

    number: int
    pid: int
    code: int


class Nursery:
    """The scheduler's hold on the nursery.

    Parameters
    ----------
    arena
        Workers inherit it, and the spill file ``arena.spill``.
    memory_limit
        Bytes of memory that a worker may have.
    lifeline
        Descriptor that the nursery holds open, so that who has the other end sees whether it lives.
    """

    def __init__(self, arena: Arena, memory_limit: int, lifeline: int) -> None:
        self._arena, self._memory_limit, self._lifeline = arena, memory_limit, lifeline
        self._address, self._secret = "", b""
        self._workers: dict[int, int] = {}  # number → pid, 0 until the nursery has said it
        self._failures = 0  # nurseries in a row that ended before they said anything
        self._process: subprocess.Popen[bytes] | None = None
        self._control, theirs = _pair()
        self._pid = os.fork()
        if not self._pid:
            with _child():
                self._control.close()
                _Keeper(theirs, arena, memory_limit, lifeline).run()
        theirs.close()

    @property
    def pid(self) -> int:
        """Of the nursery's process."""
        return self._pid

    def fileno(self) -> int:
        """Readable when :meth:`events` has something. Another number after the nursery's death."""
        return self._control.fileno()

    def introduce(self, address: str, secret: bytes) -> None:
        """Where the scheduler listens. Workers may become clients; the register forgets it if the scheduler dies."""
        self._address, self._secret = address, secret
        self._tell(("address", address))

    def spawn(self, number: int, slot: int, threads: int) -> socket.socket:
        """Have a worker forked; return our end of the connection to it. It says Ready when it is."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._workers[number] = 0
            self._tell(("spawn", Order(number, slot, threads, self._address, self._secret)), theirs.fileno())
        return ours

    def kill(self, number: int, signum: int = signal.SIGKILL) -> None:
        """Send a signal to a worker and to what it has started. Nothing happens if it has ended."""
        self._tell(("kill", number, signum))

    def events(self) -> list[Exit]:
        """What has happened to workers. Never waits for long.

        Each worker that was spawned exits once, and nothing of it runs any more then.

        Raises
        ------
        InternalError
            If the nursery died, and so did the next ones before they could do anything.
        """
        exits: list[Exit] = []
        while True:
            try:
                data = self._control.recv(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return exits
            except ConnectionError:  # it has not read all that we said; what it said last is still to come
                continue
            if not data:
                return exits + self._succeed()
            self._failures = 0
            kind, *rest = pickle.loads(data)
            if kind == "forked":
                number, pid = rest
                self._workers[number] = pid
            elif kind == "exited":
                exits.append(Exit(*rest))
                del self._workers[rest[0]]

    def close(self) -> None:
        """Kill all workers and end the nursery; returns when they are gone."""
        self._tell(("close",))
        self._bury()
        self._control.close()

    def _tell(self, message: tuple[object, ...], *descriptors: int) -> None:
        with suppress(ConnectionError):  # it is dead, which events() will find
            socket.send_fds(self._control, [pickle.dumps(message)], descriptors)

    def _succeed(self) -> list[Exit]:
        """The nursery is dead, and so are its workers. Start another."""
        self._bury()
        exits = [Exit(number, pid, -signal.SIGKILL) for number, pid in self._workers.items()]
        for pid in filter(None, self._workers.values()):
            _end_group(pid)
        self._workers.clear()
        self._failures += 1
        if self._failures > _FAILURES:
            raise InternalError("the process that forks workers ends as soon as it is started; its output says why")
        self._control.close()
        self._control, theirs = _pair()
        with theirs:
            spill = self._arena.spill
            arguments = theirs.fileno(), self._arena.place, spill, self._memory_limit, self._lifeline
            inherited = theirs.fileno(), spill, self._lifeline
            self._process = boot.start(__name__, "main", arguments, inherited)
            self._pid = self._process.pid
        if self._address:
            self._tell(("address", self._address))
        return exits

    def _bury(self) -> None:
        if self._process is None:
            os.waitpid(self._pid, 0)
        else:
            self._process.wait()


def main(control: int, place: tuple[int, int, int, int], spill: int, memory_limit: int, lifeline: int) -> None:
    """Body of a nursery that was started by ``exec``."""
    boot.leave_stdin()
    arena = Arena.open(place)
    arena.spill = spill
    _Keeper(socket.socket(fileno=control), arena, memory_limit, lifeline).run()


class _Keeper:
    """The nursery's own process."""

    def __init__(self, control: socket.socket, arena: Arena, memory_limit: int, lifeline: int) -> None:
        self._control, self._lifeline = control, lifeline
        self._inheritance = arena, memory_limit
        self._address = ""
        self._spares: dict[int, socket.socket] = {}  # pid → where it waits for its order
        self._pids: dict[int, int] = {}  # number → pid, of workers
        self._numbers: dict[int, int] = {}  # and back
        self._unsaid: deque[bytes] = deque()
        self._pause = 0  # ms before the next spare worker is forked
        self._woken = socket.socketpair()  # by signals

    def run(self) -> NoReturn:
        """Until the scheduler says so, or is gone."""
        boot.name_process("tw-nursery")
        for sock in self._woken:
            sock.setblocking(False)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken[1].fileno())
        gc.collect()
        gc.freeze()  # workers would copy the pages of these objects when they look for garbage
        self._say("born")
        poll = select.poll()
        poll.register(self._woken[0], select.POLLIN)
        while True:
            poll.register(self._control, select.POLLIN | (select.POLLOUT if self._unsaid else 0))
            events = poll.poll(None if len(self._spares) >= SPARE else self._pause)
            for descriptor, event in events:
                if descriptor == self._woken[0].fileno():
                    self._woken[0].recv(4096)
                    self._reap()
                elif event != select.POLLOUT and not self._obey():
                    self._end()
            self._say()
            if not events:
                self._fork()

    def _obey(self) -> bool:
        """Do what the scheduler asks; False if nothing more will come."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, 1)
        except ConnectionError:
            data = b""
        if not data:
            if self._address:
                with suppress(TileworkError):
                    register.remove(register.parse_address(self._address), self._inheritance[0].place[0])
            return False
        kind, *rest = pickle.loads(data)
        if kind == "address":
            (self._address,) = rest
        elif kind == "spawn":
            self._place(rest[0], data, descriptors[0])
        elif kind == "kill":
            number, signum = rest
            if number in self._pids:
                _kill(self._pids[number], signum)
        return bool(kind != "close")

    def _place(self, order: Order, data: bytes, descriptor: int) -> None:
        """Give an order to one that waits."""
        pid = 0
        while not pid and (self._spares or self._fork()):
            pid, sock = self._spares.popitem()
            try:
                with sock:
                    socket.send_fds(sock, [data], [descriptor])
            except ConnectionError:  # it has died, and that signal is still to come
                pid = 0
        os.close(descriptor)
        if pid:
            self._pids[order.number] = pid
            self._numbers[pid] = order.number
            self._say("forked", order.number, pid)
        else:
            self._say("exited", order.number, 0, 1)

    def _fork(self) -> bool:
        """One more that waits for its order; False if the system allows no more processes."""
        ours, theirs = _pair()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            ours.close()
            theirs.close()
            self._pause = _PAUSE_MS
            print(f"no worker can be started: {error.strerror}", file=sys.stderr)  # noqa: T201
            return False
        if not pid:
            with _child():
                ours.close()
                self._be_worker(parent, theirs)
        theirs.close()
        self._spares[pid] = ours
        self._pause = 0
        return True

    def _be_worker(self, parent: int, orders: socket.socket) -> None:
        os.setsid()
        boot.die_with_parent(parent, signal.SIGKILL)
        boot.name_process("tw-spare")
        with suppress(OSError):  # if memory runs out, a worker can be spared; a user's session and the scheduler cannot
            Path("/proc/self/oom_score_adj").write_text("500")
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for sock in (self._control, *self._woken, *self._spares.values()):
            sock.close()
        os.close(self._lifeline)
        with orders:
            data, descriptors, _, _ = socket.recv_fds(orders, _MESSAGE_BYTES, 1)
        order = pickle.loads(data)[1]
        boot.name_process(f"tw-worker-{order.number}")
        worker.main(socket.socket(fileno=descriptors[0]), order, *self._inheritance)

    def _reap(self) -> None:
        """Bury who has died, together with what its tasks had started."""
        while pid := _dead():
            _kill(pid, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            number = self._numbers.pop(pid, None)
            if number is not None:
                del self._pids[number]
                self._say("exited", number, pid, code)
            elif pid in self._spares:
                self._spares.pop(pid).close()

    def _end(self) -> NoReturn:
        for pid in [*self._spares, *self._numbers]:
            _kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)
        os._exit(0)

    def _say(self, *message: object) -> None:
        """Tell the scheduler, now or when it listens: it may be waiting for us to listen."""
        if message:
            self._unsaid.append(pickle.dumps(message))
        with suppress(BlockingIOError, ConnectionError):  # if it is dead, the next read tells
            while self._unsaid:
                self._control.send(self._unsaid[0], socket.MSG_DONTWAIT)
                self._unsaid.popleft()


def _pair() -> tuple[socket.socket, socket.socket]:
    """A connection that keeps messages apart."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@contextmanager
def _child() -> Iterator[None]:
    """Body of a child process: never returns to its parent's code, whatever happens."""
    code = 1
    try:
        yield
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _dead() -> int:
    """A child that has ended and is still to be buried; 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return 0 if found is None else found.si_pid


def _kill(pid: int, signum: int) -> None:
    """Signal a child that is not buried yet, and the session it leads (if it has come so far)."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signum)
    with suppress(ProcessLookupError):
        os.kill(pid, signum)


def _end_group(pid: int) -> None:
    """Kill what is left of a session that the kernel is killing, and wait until its leader runs no more."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    deadline = time.monotonic() + _BURY_SECONDS
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state in "ZX":
            return
        time.sleep(0.001)
