"""Questions about types, asked of arrays as well."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class FloatInfo:
    """Limits of a type of floats, as Python floats: what :func:`finfo` returns, as the array API wants it."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: np.dtype[Any]


def finfo(type: Any, /) -> FloatInfo:
    """Limits of a type of floats. See :class:`numpy.finfo`.

    Examples
    --------
    >>> finfo("float16").max
    65504.0
    """
    info = np.finfo(_dtype(type))
    return FloatInfo(
        info.bits, float(info.eps), float(info.max), float(info.min), float(info.smallest_normal), info.dtype
    )


def iinfo(type: Any, /) -> np.iinfo:
    """Limits of a type of integers. See :class:`numpy.iinfo`."""
    return np.iinfo(_dtype(type))


def iscomplexobj(x: Any) -> bool:
    """Whether the elements are of a complex type."""
    return np.issubdtype(_dtype(x) if isinstance(x, Array) else np.asarray(x).dtype, np.complexfloating)


def isrealobj(x: Any) -> bool:
    """Whether the elements are of no complex type."""
    return not iscomplexobj(x)


class NamespaceInfo(np.__array_namespace_info__):  # type: ignore[misc]
    """What :mod:`tilework.array` can do, for the array API: what NumPy can, on one device."""

    def devices(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the devices."""
        return ("cpu",)
