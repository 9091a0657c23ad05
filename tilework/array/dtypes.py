"""Questions about types, asked of arrays as well."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilework.array.core import Array


def _dtype(x: Any) -> Any:
    return x.dtype if isinstance(x, Array) else x


def result_type(*arrays_and_dtypes: Any) -> np.dtype[Any]:
    """The type that operations on the arguments result in. See :func:`numpy.result_type`."""
    return np.result_type(*map(_dtype, arrays_and_dtypes))


def can_cast(from_: Any, to: Any, casting: str = "safe") -> bool:
    """Whether a type can be converted to another. See :func:`numpy.can_cast`."""
    return np.can_cast(_dtype(from_), to, casting)  # type: ignore[arg-type]


def finfo(type: Any, /) -> np.finfo:
    """Limits of a type of floats. See :class:`numpy.finfo`."""
    return np.finfo(_dtype(type))


def iinfo(type: Any, /) -> np.iinfo:
    """Limits of a type of integers. See :class:`numpy.iinfo`."""
    return np.iinfo(_dtype(type))


def iscomplexobj(x: Any) -> bool:
    """Whether the elements are of a complex type."""
    return np.issubdtype(_dtype(x) if isinstance(x, Array) else np.asarray(x).dtype, np.complexfloating)


def isrealobj(x: Any) -> bool:
    """Whether the elements are of no complex type."""
    return not iscomplexobj(x)
