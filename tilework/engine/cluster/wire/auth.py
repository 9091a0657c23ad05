"""Who may speak: both ends of a connection prove that they know the cluster's secret before anything is unpickled.

::

    client                                  scheduler
    greeting: magic, version, nonce   ───▶
                                      ◀───  greeting: magic, version, nonce, proof
    proof                             ───▶
                                      ◀───  admitted

A proof is the HMAC-SHA256, under the secret, of the prover's role and both nonces: it fits this connection and this
direction only, so nothing that was overheard is of use. All parts have fixed sizes. A stranger can have the scheduler
do this: keep one of :data:`MAX_PENDING` places for at most :data:`PATIENCE` seconds, receive 74 bytes, and compute two
hashes.

Magic and version come first and will never change, so ends of different versions tell each other so. What follows the
handshake is neither encrypted nor authenticated: connections do not leave the machine.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import time
from collections.abc import Hashable
from typing import Generic, NamedTuple, TypeVar

from tilework.base.errors import ConnectionLostError

PROTOCOL = 1
"""Version of all that is said over connections, this handshake included."""

MAX_PENDING = 64
"""Connections that may be in their handshake at a time. One more, and the oldest goes."""

PATIENCE = 5.0
"""Seconds that a handshake may take."""

_MAGIC = b"tilework"
_HEAD = len(_MAGIC) + 2
_NONCE = 32
_PROOF = 32
_ADMITTED = b"\x06"  # without it a client that is crowded out in this moment would take itself for connected


def new_secret() -> bytes:
    """A secret for a new cluster."""
    return secrets.token_bytes(32)


def _head() -> bytes:
    return _MAGIC + PROTOCOL.to_bytes(2, "big")


def _proof(secret: bytes, role: bytes, client_nonce: bytes, server_nonce: bytes) -> bytes:
    return hmac.digest(secret, b"tilework " + role + client_nonce + server_nonce, hashlib.sha256)


# ---------------------------------------------------------------- the scheduler's side


class Verdict(NamedTuple):
    """What to do with a connection that was heard.

    Attributes
    ----------
    answer
        Send this, whatever the rest says.
    admitted
        It is one of us: messages follow, in both directions.
    refused
        Why to close it, after the answer.
    """

    answer: bytes = b""
    admitted: bool = False
    refused: str | None = None


class _Handshake:
    """The scheduler's side of one handshake, fed with bytes. ``wanted`` is how many more it takes."""

    __slots__ = ("_expected", "_received", "_secret", "deadline", "wanted")

    def __init__(self, secret: bytes, deadline: float) -> None:
        self._secret = secret
        self._received = b""
        self._expected = b""  # the client's proof
        self.wanted = _HEAD
        self.deadline = deadline

    def feed(self, data: bytes) -> Verdict:
        if not data:
            return Verdict(refused="it closed the connection before it had proved who it is")
        self._received += data
        self.wanted -= len(data)
        if self.wanted:
            return Verdict()
        received, self._received = self._received, b""
        if self._expected:
            if hmac.compare_digest(received, self._expected):
                return Verdict(_ADMITTED, admitted=True)
            return Verdict(refused="it does not know the secret")
        if len(received) == _HEAD:
            if not received.startswith(_MAGIC):
                return Verdict(refused="it does not speak tilework's protocol")
            if received != _head():
                return Verdict(
                    _head(), refused=f"it speaks version {_version(received)} of the protocol, not {PROTOCOL}"
                )
            self._received, self.wanted = received, _NONCE
            return Verdict()
        client_nonce, server_nonce = received[_HEAD:], secrets.token_bytes(_NONCE)
        self._expected = _proof(self._secret, b"client", client_nonce, server_nonce)
        self.wanted = _PROOF
        return Verdict(_head() + server_nonce + _proof(self._secret, b"server", client_nonce, server_nonce))


Connection = TypeVar("Connection", bound=Hashable)


class Doorman(Generic[Connection]):
    """The connections that have not proved yet who they are. No I/O, no clock: the scheduler's loop calls it.

    Parameters
    ----------
    secret
        The cluster's.

    Examples
    --------
    >>> doorman = Doorman(new_secret())
    >>> doorman.arrived("a", now=0.0)
    []
    >>> doorman.heard("a", b"GET / HTTP").refused
    "it does not speak tilework's protocol"
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._pending: dict[Connection, _Handshake] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._pending)

    def __contains__(self, connection: object) -> bool:
        return connection in self._pending

    def arrived(self, connection: Connection, now: float) -> list[Connection]:
        """Take in a new connection. Those that are returned have to go for it: close them."""
        self._pending[connection] = _Handshake(self._secret, now + PATIENCE)
        excess = len(self._pending) - MAX_PENDING
        return [self._forget(oldest) for oldest in list(self._pending)[:excess]] if excess > 0 else []

    def wanted(self, connection: Connection) -> int:
        """How many bytes to read of a connection, at most. What comes behind them are messages."""
        return self._pending[connection].wanted

    def heard(self, connection: Connection, data: bytes) -> Verdict:
        """Say what to do with a connection, given what was read of it: ``b""`` if it has ended, or is broken.

        After ``admitted`` or ``refused`` the doorman knows it no more.
        """
        verdict = self._pending[connection].feed(data)
        if verdict.admitted or verdict.refused is not None:
            del self._pending[connection]
        return verdict

    def expired(self, now: float) -> list[Connection]:
        """Those whose time is up: close them."""
        return [self._forget(late) for late in [c for c, h in self._pending.items() if h.deadline <= now]]

    def deadline(self) -> float | None:
        """When to ask ``expired`` next; None if nobody is here."""
        return next((handshake.deadline for handshake in self._pending.values()), None)

    def _forget(self, connection: Connection) -> Connection:
        del self._pending[connection]
        return connection


# ---------------------------------------------------------------- the client's side


def connect(port: int, secret: bytes, timeout: float = PATIENCE) -> socket.socket:
    """Connect to a cluster on this machine, and prove and have proved that both know its secret.

    Parameters
    ----------
    port
        Where it listens, on 127.0.0.1.
    secret
        The cluster's.
    timeout
        Seconds to try. If strangers crowd it out, it tries again for that long.

    Returns
    -------
    socket
        A connection on which messages may follow, for a :class:`~tilework.engine.cluster.wire.channel.Channel`.

    Raises
    ------
    ConnectionLostError
        If nobody listens, it is another version, or it does not know the secret. The message says which.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            sock = socket.create_connection(("127.0.0.1", port), timeout=max(0.01, deadline - time.monotonic()))
        except OSError as error:
            raise ConnectionLostError(
                f"nobody listens at tcp://127.0.0.1:{port} ({error.strerror or error}); start a cluster with "
                "LocalCluster() or `tilework cluster start`, and see `tilework cluster list` for those that run"
            ) from error
        try:
            _handshake(sock, secret, deadline)
            return sock
        except _TurnedAway as error:
            sock.close()
            if time.monotonic() >= deadline:
                raise ConnectionLostError(
                    f"no connection to tcp://127.0.0.1:{port} in {timeout:g} s: {error}"
                ) from None
            time.sleep(0.01)
        except BaseException:
            sock.close()
            raise


class _TurnedAway(Exception):
    """The other end hung up during the handshake: it may be crowded. One may try again."""


def _handshake(sock: socket.socket, secret: bytes, deadline: float) -> None:
    """Do the client's part of the handshake on a connected socket, until ``deadline`` (monotonic seconds)."""
    nonce = secrets.token_bytes(_NONCE)
    where = "tcp://{}:{}".format(*sock.getpeername()[:2])
    try:
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        sock.sendall(_head() + nonce)
        head = _read_exactly(sock, _HEAD, deadline)
        if not head.startswith(_MAGIC):
            raise ConnectionLostError(f"what listens at {where} is no tilework cluster; check the port")
        if head != _head():
            raise ConnectionLostError(
                f"the cluster at {where} speaks version {_version(head)} of the protocol, this process version "
                f"{PROTOCOL}; use the same version of tilework for both"
            )
        rest = _read_exactly(sock, _NONCE + _PROOF, deadline)
        if not hmac.compare_digest(rest[_NONCE:], _proof(secret, b"server", nonce, rest[:_NONCE])):
            raise ConnectionLostError(
                f"the cluster at {where} does not know the secret that this process has for it: it is another one, "
                "at the same port; connect again by its address, or see `tilework cluster list`"
            )
        sock.sendall(_proof(secret, b"client", nonce, rest[:_NONCE]))
        _read_exactly(sock, len(_ADMITTED), deadline)
    except TimeoutError:
        raise ConnectionLostError(
            f"what listens at {where} does not answer as a tilework cluster does; check the port"
        ) from None
    except (ConnectionLostError, _TurnedAway):
        raise
    except OSError as error:
        raise _TurnedAway(f"it closed the connection ({error.strerror})") from error


def _read_exactly(sock: socket.socket, n: int, deadline: float) -> bytes:
    data = b""
    while len(data) < n:
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        more = sock.recv(n - len(data))
        if not more:
            raise _TurnedAway("it closed the connection")
        data += more
    return data


def _version(head: bytes) -> int:
    return int.from_bytes(head[len(_MAGIC) :], "big")
