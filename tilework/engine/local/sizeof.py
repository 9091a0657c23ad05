"""What a value weighs, in bytes: enough for a memory contract, cheap enough to ask after every task."""

from __future__ import annotations

import sys
from itertools import islice
from math import prod
from typing import Any

import numpy as np

SAMPLE = 16  # items of a container that are weighed, to stand for all

# Weighing these would cost more than it tells: a task returns one of them, and a list of them weighs its pointers.
_SMALL = {bool: 0, type(None): 0, int: 32, float: 24, complex: 32}


def sizeof(value: Any) -> int:
    """Bytes that ``value`` takes in memory. Containers are sampled, and looked into one level deep.

    Examples
    --------
    >>> sizeof(np.zeros((10, 10)))
    800
    >>> sizeof(np.broadcast_to(np.zeros(3), (1000, 3)))
    24
    """
    kind = type(value)
    size = _SMALL.get(kind)
    if size is not None:
        return size
    if kind is np.ndarray:
        return _array(value)
    if kind in (list, tuple, set, frozenset):
        return sys.getsizeof(value) + _sample(value, len(value))
    if kind is dict:
        return sys.getsizeof(value) + _sample(value, len(value)) + _sample(value.values(), len(value))
    return _other(value)


def _array(value: np.ndarray) -> int:
    """Broadcast axes (stride 0) weigh nothing."""
    if 0 not in value.strides:
        return int(value.nbytes)
    lengths = [int(n) for n, stride in zip(value.shape, value.strides, strict=True) if stride or not n]
    return prod(lengths, start=int(value.itemsize))


def _sample(items: Any, n: int) -> int:
    taken = min(n, SAMPLE)
    return sum(map(_other, islice(items, taken))) * n // taken if taken else 0


def _other(value: Any) -> int:
    """Anything, without looking inside containers."""
    size = _SMALL.get(type(value))
    if size is not None:
        return size
    if isinstance(value, np.ndarray):
        return _array(value)
    try:
        nbytes = getattr(value, "nbytes", None)  # xarray, memoryview, array-likes, pandas indices
        if nbytes is None and hasattr(value, "memory_usage"):  # pandas frames and series
            nbytes = np.sum(value.memory_usage())
        return sys.getsizeof(value) if nbytes is None else int(nbytes)
    except Exception:  # of the user's class, whose size nobody has asked for: not worth failing a task
        return object.__sizeof__(value)
