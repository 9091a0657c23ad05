"""Where a user's running clusters are found, by address or port: one small file each, that only its owner can read.

The files lie in ``$XDG_RUNTIME_DIR/tilework``, or in ``~/.cache/tilework/clusters`` where there is no such directory
(a shell by ``su``, a container), or else in the directory for temporary files. All are looked through, since two
processes of a user may have different environments. What others could have put there or could read is refused.

A file is named by boot and port, so a home directory on several machines does not mix them up. An entry is stale if its
process is gone, or another one has its number (it started at another time); whoever meets a stale one removes it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tilework.base.errors import ConfigError, ConnectionLostError, StorageError, UnsupportedError

_LARGEST = 64 << 10  # bytes of a file


@dataclass(frozen=True, slots=True)
class Entry:
    """A running cluster.

    Attributes
    ----------
    name
        As given by its maker.
    port
        Where its scheduler listens, on 127.0.0.1.
    secret
        What clients must know.
    pid
        The scheduler process.
    started
        When, in seconds since the epoch.
    dashboard
        Link to its status page, token included; None if it has none.
    """

    name: str
    port: int
    secret: bytes = field(repr=False)
    pid: int
    started: float
    dashboard: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """What clients connect to."""
        return f"tcp://127.0.0.1:{self.port}"


def parse_address(address: str) -> int:
    """The port that an address means.

    Parameters
    ----------
    address
        ``"tcp://127.0.0.1:8786"``, ``"127.0.0.1:8786"``, ``"localhost:8786"`` or ``":8786"``.

    Raises
    ------
    ConfigError
        If it is no address.
    UnsupportedError
        If it is on another machine.

    Examples
    --------
    >>> parse_address("tcp://127.0.0.1:8786")
    8786
    """
    match = re.fullmatch(r"(?:(\w+)://)?(\[[^]]*\]|[^:/\s]*):(\d{1,5})/?", address.strip())
    if match is None or match[1] not in (None, "tcp") or not 0 < int(match[3]) < 65536:
        raise ConfigError(f'{address!r} is not the address of a cluster; it looks like "tcp://127.0.0.1:8786"')
    host = match[2].strip("[]").lower()
    if host not in ("", "localhost", "::1") and not re.fullmatch(r"127(\.\d{1,3}){3}", host):
        raise UnsupportedError(
            f"{address!r} is another machine: tilework's clusters are reached from their own machine only, by "
            '"tcp://127.0.0.1:PORT"; for other machines use an engine that already runs there'
        )
    return int(match[3])


def write(entry: Entry) -> None:
    """Make a cluster known.

    Raises
    ------
    StorageError
        If there is no directory for it that is safe.
    """
    record = {**asdict(entry), "secret": entry.secret.hex(), "birth": _birth(entry.pid)}
    directory = _own_directory()
    path = directory / _name(entry.port)
    draft = directory / f"{path.name}.{entry.pid}.new"
    try:
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            json.dump(record, file)
        draft.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write {path}, by which a cluster is found: {error.strerror}") from error


def read(address: str) -> Entry:
    """Find a running cluster.

    Parameters
    ----------
    address
        See :func:`parse_address`.

    Raises
    ------
    ConfigError, UnsupportedError
        If it is no address of this machine.
    ConnectionLostError
        If nobody listens there, or somebody whose secret this user has not.
    StorageError
        If the file could have been made or read by others.
    """
    port = parse_address(address)
    for entry in entries():
        if entry.port == port:
            return entry
    running = ", ".join(entry.address for entry in entries()) or "none"
    if _listens(port):
        raise ConnectionLostError(
            f"something listens at tcp://127.0.0.1:{port}, but it is no cluster of yours: it is another user's, or "
            f"another program. Your clusters: {running}"
        )
    raise ConnectionLostError(
        f"nobody listens at tcp://127.0.0.1:{port}; your clusters: {running}. Start one with LocalCluster() or "
        "`tilework cluster start`"
    )


def entries() -> list[Entry]:
    """All running clusters of this user on this machine, oldest first. Removes stale entries.

    Raises
    ------
    StorageError
        If a directory or file could have been made or read by others.
    """
    found = []
    for path in _files():
        loaded = _load(path)
        if loaded is None:
            continue
        entry, birth = loaded
        if birth is not None and birth == _birth(entry.pid):
            found.append(entry)
        else:
            path.unlink(missing_ok=True)
    return sorted(found, key=lambda entry: entry.started)


def remove(port: int, pid: int) -> None:
    """Forget the cluster at a port, if it is the one with this scheduler process. Does nothing if there is none."""
    for path in _files():
        if path.name == _name(port) and (loaded := _load(path)) is not None and loaded[0].pid == pid:
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------- files


def _directories() -> list[Path]:
    """Where entries may be, best first: below directories of ours, and below the one for temporary files."""
    homes = [(os.environ.get("XDG_RUNTIME_DIR"), "tilework"), (os.path.expanduser("~"), ".cache/tilework/clusters")]
    own = [Path(home, name) for home, name in homes if home and os.path.isabs(home) and _is_ours(home)]
    return [*own, Path(tempfile.gettempdir(), f"tilework-{os.geteuid()}")]


def _is_ours(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


def _own_directory() -> Path:
    """The directory to write to, made if need be."""
    problem = ""
    for directory in _directories():
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:  # a home that cannot be written
            problem = f"cannot make {directory}: {error.strerror}"
            continue
        status = directory.lstat()
        if status.st_uid != os.geteuid():
            raise StorageError(
                f"{directory} belongs to another user; remove it, so that clusters can be registered there"
            )
        _check(directory, status, stat.S_ISDIR)
        return directory
    raise StorageError(
        f"there is no directory to register a cluster in: {problem}; set XDG_RUNTIME_DIR to one of yours"
    )


def _files() -> Iterator[Path]:
    """The files of this boot. Removes what a killed process did not finish."""
    pattern = re.compile(_name(r"\d+") + r"(?:\.(\d+)\.new)?")
    for directory in _directories():
        try:
            status = directory.lstat()
        except OSError:
            continue
        if status.st_uid != os.geteuid():  # somebody made it in the directory for temporary files: none of ours
            continue
        _check(directory, status, stat.S_ISDIR)
        for path in directory.iterdir():
            match = pattern.fullmatch(path.name)
            if match is not None and match[1] is None:
                yield path
            elif match is not None and _birth(int(match[1])) is None:
                path.unlink(missing_ok=True)


def _load(path: Path) -> tuple[Entry, int | None] | None:
    """What a file says: an entry, and when its process started. None if it has gone meanwhile."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}, by which a cluster is found: {error.strerror}") from error
    with open(descriptor, "rb") as file:
        _check(path, os.fstat(descriptor), stat.S_ISREG)
        try:
            record = json.loads(file.read(_LARGEST))
            birth = record.pop("birth")
            return Entry(**{**record, "secret": bytes.fromhex(record["secret"])}), birth
        except (ValueError, LookupError, TypeError) as error:
            raise StorageError(f"{path} does not tell of a cluster; remove it") from error


def _check(path: Path, status: os.stat_result, kind: Callable[[int], bool]) -> None:
    if not kind(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise StorageError(
            f"{path} is not safe to keep a cluster's secret: it must be yours, no link, and closed to others "
            f"(it has mode {stat.S_IMODE(status.st_mode):o}); remove it, or run chmod go-rwx on it"
        )


def _name(port: int | str) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    return f"{boot}-{port}"


# ---------------------------------------------------------------- processes and ports


def _birth(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone, or dead and only not yet waited for."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()  # the name before it may contain anything
    return None if fields[0] in "ZX" else int(fields[19])


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
