"""Which versions the two ends of a connection must share, so that one can unpickle what the other has pickled."""

from __future__ import annotations

import platform

import cloudpickle
import numpy as np

from tilework.base.version import __version__

_PARTS = {"python": 2, "tilework": 3, "numpy": 1, "cloudpickle": 1}
"""How many numbers of each version must agree. Functions travel as bytecode, which changes with Python's minor version;
messages and task graphs are tilework's own classes."""


def versions() -> dict[str, str]:
    """The versions here, of Python and of the packages whose pickles must fit."""
    return {
        "python": platform.python_version(),
        "tilework": __version__,
        "numpy": np.__version__,
        "cloudpickle": cloudpickle.__version__,
    }


def mismatch(cluster: dict[str, str], client: dict[str, str]) -> str | None:
    """Why the client cannot speak with the cluster, or None."""
    wrong = [
        f"{name} {cluster.get(name)} on the cluster and {client.get(name)} on the client"
        for name, parts in _PARTS.items()
        if _first(cluster.get(name), parts) != _first(client.get(name), parts)
    ]
    if not wrong:
        return None
    return (
        f"versions do not fit: {'; '.join(wrong)}. Functions and results could not be read on the other side: start "
        "the cluster from the environment that the client runs in"
    )


def _first(version: str | None, parts: int) -> list[str] | None:
    return None if version is None else version.split(".")[:parts]
