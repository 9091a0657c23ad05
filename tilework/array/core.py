"""The array class: a wrapper around one plan node, and nothing else.

Everything an :class:`Array` can be asked without computing (shape, dtype, chunks) comes from its node. Everything that
makes a new array is a function of one of the sibling modules, which import this one; :mod:`tilework.array.methods`
binds those functions to the class. So a new operation is a function in the module where it belongs, exported by the
package, and one line in ``methods`` if NumPy has it as a method.

Assignment (``x[0] = 1``, ``x += 1``) rebinds :attr:`Array.node` to a node for the changed array: what was built from
the array before keeps the old values, as nodes never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import isnan, prod
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from tilework import session
from tilework.array.elementwise import cast
from tilework.base.errors import DTypeError, PlanError, UnknownChunksError, UnsupportedError
from tilework.plan import build
from tilework.plan.blocks import Chunks
from tilework.plan.ops import ArrayNode


class Array(NDArrayOperatorsMixin):
    """A lazy, chunked n-dimensional array with NumPy's interface.

    Made by :func:`tilework.array.from_array`, :func:`tilework.array.zeros` and the like, not by calling the class.
    Operations return new arrays and run nothing; :meth:`compute` runs them all and returns a NumPy array.

    Attributes
    ----------
    node
        The plan node whose value this array is.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.ones((4, 6), chunks=(2, 3))
    >>> (x + 1).sum(axis=0)
    tilework.array<sum, shape=(6,), dtype=float64, chunksize=(3,)>
    """

    __slots__ = ("__weakref__", "_name", "node")
    __array_priority__ = 11

    node: ArrayNode

    # Bound by tilework.array.methods: functions of modules that import this one.
    T: Array
    mT: Array
    real: Array
    imag: Array
    blocks: Any
    partitions: Any
    vindex: Any
    __array_function__: Callable[..., Any]
    __array_namespace__: Callable[..., Any]
    __array_ufunc__: Callable[..., Any]
    __getitem__: Callable[..., Array]
    __setitem__: Callable[..., None]
    _repr_html_: Callable[[], str]
    compute_chunk_sizes: Callable[[], Array]
    nonzero: Callable[[], tuple[Array, ...]]
    to_delayed: Callable[..., np.ndarray]
    all: Callable[..., Array]
    any: Callable[..., Array]
    argmax: Callable[..., Array]
    argmin: Callable[..., Array]
    argsort: Callable[..., Array]
    argtopk: Callable[..., Array]
    astype: Callable[..., Array]
    choose: Callable[..., Array]
    clip: Callable[..., Array]
    compress: Callable[..., Array]
    conj: Callable[..., Array]
    conjugate: Callable[..., Array]
    copy: Callable[..., Array]
    cumprod: Callable[..., Array]
    cumsum: Callable[..., Array]
    diagonal: Callable[..., Array]
    dot: Callable[..., Array]
    flatten: Callable[..., Array]
    map_blocks: Callable[..., Array]
    map_overlap: Callable[..., Array]
    max: Callable[..., Array]
    mean: Callable[..., Array]
    min: Callable[..., Array]
    moment: Callable[..., Array]
    prod: Callable[..., Array]
    ptp: Callable[..., Array]
    ravel: Callable[..., Array]
    rechunk: Callable[..., Array]
    repeat: Callable[..., Array]
    reshape: Callable[..., Array]
    round: Callable[..., Array]
    searchsorted: Callable[..., Array]
    shuffle: Callable[..., Array]
    squeeze: Callable[..., Array]
    std: Callable[..., Array]
    sum: Callable[..., Array]
    swapaxes: Callable[..., Array]
    take: Callable[..., Array]
    to_device: Callable[..., Array]
    to_hdf5: Callable[..., None]
    to_svg: Callable[..., str]
    topk: Callable[..., Array]
    trace: Callable[..., Array]
    transpose: Callable[..., Array]
    var: Callable[..., Array]
    view: Callable[..., Array]

    def __init__(self, node: ArrayNode, name: str | None = None) -> None:
        self.node = node
        self._name = name  # as it was asked for; means nothing to the plan

    def __tilework_rebuild__(self, node: ArrayNode) -> Array:
        return Array(node)

    def __reduce__(self) -> tuple[Any, ...]:
        return Array, (self.node,)

    def __dask_tokenize__(self) -> str:
        """Equal programs are equal for Dask's ``tokenize``, too, which xarray's objects answer with their arrays."""
        return self.node.token

    def __copy__(self) -> Array:
        return Array(self.node)

    def __deepcopy__(self, memo: dict[int, Any]) -> Array:
        return Array(self.node)

    # ------------------------------------------------------------ metadata

    @property
    def shape(self) -> tuple[Any, ...]:
        """Length of each axis; NaN where chunk sizes are unknown (see :meth:`compute_chunk_sizes`)."""
        return self.node.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the elements."""
        return self.node.dtype

    @property
    def chunks(self) -> Chunks:
        """For each axis the sizes of its blocks; NaN for sizes that are unknown."""
        return self.node.chunks

    @property
    def chunksize(self) -> tuple[Any, ...]:
        """The largest block size along each axis."""
        return tuple(axis.largest for axis in self.chunks)

    @property
    def numblocks(self) -> tuple[int, ...]:
        """Number of blocks along each axis."""
        return self.node.grid

    @property
    def npartitions(self) -> int:
        """Number of blocks."""
        return prod(self.numblocks)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.node.ndim

    @property
    def size(self) -> Any:
        """Number of elements; NaN if unknown."""
        return prod(self.shape)

    @property
    def _meta(self) -> np.ndarray:
        """An array without elements of the kind that blocks are, where programs written for Dask look for it."""
        return np.empty((0,) * self.ndim, self.dtype)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> Any:
        """Bytes of all elements together; NaN if unknown."""
        return self.size * self.itemsize

    @property
    def name(self) -> str:
        """The name that the array was made with; else one that equal arrays share, the token of its node."""
        return self.node.token if self._name is None else self._name

    @property
    def device(self) -> str:
        """Where the data lives, for the array API: always ``"cpu"``."""
        return "cpu"

    # ------------------------------------------------------------ running

    def compute(self, **options: Any) -> Any:
        """Run the program and return the result as a NumPy array (a scalar for no dimensions).

        Parameters
        ----------
        **options
            ``scheduler``, ``memory`` and more: see :func:`tilework.compute`.
        """
        return session.compute(self, **options)[0]

    def persist(self, **options: Any) -> Array:
        """Run the program and keep its blocks in memory: an equal array that costs nothing to use again."""
        (array,) = session.persist(self, **options)
        return array

    def visualize(self, filename: Any = "tilework", **options: Any) -> Any:
        """Draw the plan into a file and return the drawing: see :func:`tilework.visualize`."""
        return session.visualize(self, filename=filename, **options)

    def explain(self, **options: Any) -> Any:
        """Say what computing will do and cost: see :func:`tilework.explain`."""
        return session.explain(self, **options)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a lazy array cannot be converted to NumPy without a copy; leave out copy=False")
        return np.asarray(self.compute(), dtype=dtype)

    def __dlpack__(
        self, *, stream: Any = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        # A copy: computed values may be shared, and DLPack lets write.
        return np.array(self).__dlpack__(stream=stream, max_version=max_version, dl_device=dl_device)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # the processor's memory

    def _item(self) -> Any:
        """The one element, computed."""
        if self.size != 1:
            raise TypeError(f"only arrays of one element can be converted to Python scalars, not shape {self.shape}")
        return np.asarray(self.compute()).item()

    def item(self, *args: Any) -> Any:
        """Compute and return one element as a Python scalar: the only one, or by its flat or its full index."""
        if args:
            index = args[0] if len(args) == 1 else args
            if isinstance(index, tuple) and len(index) != self.ndim:
                raise PlanError(f"item: {len(index)} indices for an array of {self.ndim} dimensions")
            return (self[index] if isinstance(index, tuple) else self.ravel()[index])._item()
        if self.size > 1:
            raise PlanError(f"item: can only convert an array of size 1 to a Python scalar, not shape {self.shape}")
        return np.asarray(self.compute()).item()

    def __bool__(self) -> bool:
        if self.size == 1:
            return bool(self._item())
        raise ValueError(
            f"the truth value of an array of shape {self.shape} is ambiguous; use .any() or .all() and compute it"
        )

    def __int__(self) -> int:
        return int(self._item())

    def __float__(self) -> float:
        return float(self._item())

    def __complex__(self) -> complex:
        return complex(self._item())

    def __index__(self) -> int:
        if self.ndim or self.dtype.kind not in "iu":
            raise TypeError(f"only integer arrays without dimensions can be used as an index, not {self!r}")
        return int(self._item())

    # ------------------------------------------------------------ container

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of unsized object")
        n = self.shape[0]
        if isnan(n):
            raise UnknownChunksError(f"len() of {self!r} is not known; call compute_chunk_sizes() first")
        return int(n)

    def __iter__(self) -> Iterator[Array]:
        if not self.ndim:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))

    def __contains__(self, value: object) -> bool:
        return bool((self == value).any())

    def __repr__(self) -> str:
        shape = "({})".format(", ".join(map(str, self.shape)) + ("," if self.ndim == 1 else ""))
        chunksize = "({})".format(", ".join(map(str, self.chunksize)) + ("," if self.ndim == 1 else ""))
        return f"tilework.array<{self.node.label}, shape={shape}, dtype={self.dtype}, chunksize={chunksize}>"


def known_length(x: Array, axis: int, what: str) -> int:
    """The length of an axis, for an operation that must know it."""
    n = x.shape[axis]
    if isnan(n):
        raise UnknownChunksError(f"{what}: axis {axis} has unknown length; call compute_chunk_sizes() first")
    return int(n)


def in_memory(value: Any, what: str) -> Any:
    """A parameter that decides about shapes: it must be known while the program is written."""
    if isinstance(value, Array):
        raise UnsupportedError(
            f"{what} must be known before anything is computed, not a lazy array; compute() it first"
        )
    return value


def into(out: Any, result: Array, what: str, casting: str = "same_kind") -> Array:
    """Let ``out`` hold the result, as NumPy's ``out=`` does."""
    if not isinstance(out, Array):
        raise UnsupportedError(
            f"{what}: out= must be a lazy array, not {type(out).__name__}; leave it out and compute() the result"
        )
    if not np.can_cast(result.dtype, out.dtype, casting):  # type: ignore[arg-type]
        raise DTypeError(
            f"{what}: a result of dtype {result.dtype} cannot go into out= of dtype {out.dtype} by the rule {casting!r}"
        )
    node = cast(result.node, out.dtype)
    missing = out.ndim - node.ndim
    grown = {
        k: axis for k, axis in enumerate(out.chunks)
        if k < missing or (node.shape[k - missing] == 1 and axis.total != 1)
    }  # fmt: skip
    if grown:
        node = build.rearrange(node, [None] * missing + list(range(node.ndim)), grown, label="broadcast_to")
    if str(node.shape) != str(out.shape):  # NaN equals NaN here
        raise PlanError(
            f"{what}: non-broadcastable output operand: out= has shape {out.shape}, the result {result.shape}"
        )
    out.node = node
    return out
