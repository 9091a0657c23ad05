"""The open clients of this process, and which of them is the default: the one that was made last."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from tilework.base import config
from tilework.base.errors import ClusterClosedError

if TYPE_CHECKING:
    from tilework.distributed.client import Client

_open: weakref.WeakSet[Client] = weakref.WeakSet()
_defaults: list[Client] = []


def add(client: Client, as_default: bool) -> None:
    """A client was opened. As the default it is also the scheduler of everything lazy."""
    _open.add(client)
    if as_default:
        _defaults.append(client)
        config.push_scheduler(client)


def remove(client: Client) -> None:
    """A client was closed. The default is the one before it again. Does nothing the second time."""
    _open.discard(client)
    if client in _defaults:
        _defaults.remove(client)
        config.remove_scheduler(client)


def default() -> Client | None:
    """The default client; None if there is none."""
    return _defaults[-1] if _defaults else None


def running_at(address: str) -> Client | None:
    """A client of the cluster at an address, the default one sooner than others; None if there is none."""
    for client in [*reversed(_defaults), *_open]:
        if client.link.welcome.address == address and client.link.broken is None:
            return client
    return None


def client_at(address: str) -> Client:
    """A client of the cluster at an address.

    Raises
    ------
    ClusterClosedError
        If there is none.
    """
    client = running_at(address)
    if client is None:
        raise ClusterClosedError(
            f"a future of the cluster at {address} cannot be used where there is no client of it; make one first, "
            f"Client({address!r})"
        )
    return client
