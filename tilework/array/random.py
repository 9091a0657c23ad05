"""Random arrays: the interface of :mod:`numpy.random`, lazily.

Every array that is drawn gets a seed of its own, spawned from its generator's, and every block a generator spawned from
that. So values depend on the seed, the order of calls and the chunks; scheduler, threads and slicing change nothing.
The values are not those that NumPy draws from the same seed.

Two things need all of an axis at once and are decided when they are called, as one index array in memory: permutations,
and choices without replacement (or from lazy arrays).
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from tilework.array.core import Array, in_memory, known_length
from tilework.array.creation import asarray, from_array, normalize
from tilework.array.manipulation import take
from tilework.array.shapes import reshape_node
from tilework.base.errors import PlanError, UnknownChunksError, UnsupportedError
from tilework.io.random import RandomSource
from tilework.plan import build
from tilework.plan.blocks import Chunks
from tilework.plan.ops import ArrayNode, BlockFunction, Slot
from tilework.plan.stages import BlockPlace

_NONE: Any = inspect.Parameter.empty


def _distribution(name: str, *required: str, options: Mapping[str, Any] | None = None, **defaults: Any) -> Any:
    """The method that draws from NumPy's distribution ``name``: its parameters, then size, options and chunks."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    entries = [*((p, _NONE) for p in required), *defaults.items(), ("size", None), *(options or {}).items()]
    parameters = [inspect.Parameter(p, kind, default=default) for p, default in [*entries, ("chunks", "auto")]]
    signature = inspect.Signature([inspect.Parameter("self", kind), *parameters])

    def draw(*args: Any, **kwargs: Any) -> Array:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        values = dict(given.arguments)
        self, size, chunks = (values.pop(p) for p in ("self", "size", "chunks"))
        chosen = {p: values.pop(p) for p in options or {}}
        changed = {p: value for p, value in chosen.items() if value is not (options or {})[p]}
        return self._draw(name, values, size, changed, chunks)

    draw.__name__, draw.__qualname__ = name, f"Generator.{name}"
    draw.__doc__ = f"As :meth:`numpy.random.Generator.{name}`. ``chunks`` as for :func:`tilework.array.from_array`."
    draw.__signature__ = signature  # type: ignore[attr-defined]
    return draw


class Generator:
    """Draws lazy arrays from many distributions. Made by :func:`default_rng`.

    Parameters of distributions may be numbers, NumPy arrays or lazy arrays, and broadcast.

    Parameters
    ----------
    seed
        As for :func:`default_rng`.

    Examples
    --------
    >>> import tilework.array as ta
    >>> rng = ta.random.default_rng(42)
    >>> rng.normal(10, 0.1, size=(400, 600), chunks=(200, 300)).mean().compute().round(2)
    np.float64(10.0)
    """

    def __init__(self, seed: Any = None) -> None:
        self._seeds = _seed_sequence(seed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(PCG64)"

    beta = _distribution("beta", "a", "b")
    binomial = _distribution("binomial", "n", "p")
    chisquare = _distribution("chisquare", "df")
    dirichlet = _distribution("dirichlet", "alpha")
    exponential = _distribution("exponential", scale=1.0)
    f = _distribution("f", "dfnum", "dfden")
    gamma = _distribution("gamma", "shape", scale=1.0)
    geometric = _distribution("geometric", "p")
    gumbel = _distribution("gumbel", loc=0.0, scale=1.0)
    hypergeometric = _distribution("hypergeometric", "ngood", "nbad", "nsample")
    integers = _distribution("integers", "low", high=None, options={"dtype": np.int64, "endpoint": False})
    laplace = _distribution("laplace", loc=0.0, scale=1.0)
    logistic = _distribution("logistic", loc=0.0, scale=1.0)
    lognormal = _distribution("lognormal", mean=0.0, sigma=1.0)
    logseries = _distribution("logseries", "p")
    multinomial = _distribution("multinomial", "n", "pvals")
    multivariate_hypergeometric = _distribution("multivariate_hypergeometric", "colors", "nsample")
    multivariate_normal = _distribution(
        "multivariate_normal", "mean", "cov", options={"check_valid": "warn", "tol": 1e-8, "method": "svd"}
    )
    negative_binomial = _distribution("negative_binomial", "n", "p")
    noncentral_chisquare = _distribution("noncentral_chisquare", "df", "nonc")
    noncentral_f = _distribution("noncentral_f", "dfnum", "dfden", "nonc")
    normal = _distribution("normal", loc=0.0, scale=1.0)
    pareto = _distribution("pareto", "a")
    poisson = _distribution("poisson", lam=1.0)
    power = _distribution("power", "a")
    random = _distribution("random", options={"dtype": np.float64})
    rayleigh = _distribution("rayleigh", scale=1.0)
    standard_cauchy = _distribution("standard_cauchy")
    standard_exponential = _distribution("standard_exponential", options={"dtype": np.float64, "method": "zig"})
    standard_gamma = _distribution("standard_gamma", "shape", options={"dtype": np.float64})
    standard_normal = _distribution("standard_normal", options={"dtype": np.float64})
    standard_t = _distribution("standard_t", "df")
    triangular = _distribution("triangular", "left", "mode", "right")
    uniform = _distribution("uniform", low=0.0, high=1.0)
    vonmises = _distribution("vonmises", "mu", "kappa")
    wald = _distribution("wald", "mean", "scale")
    weibull = _distribution("weibull", "a")
    zipf = _distribution("zipf", "a")

    def choice(
        self,
        a: Any,
        size: Any = None,
        replace: bool = True,
        p: Any = None,
        axis: int = 0,
        shuffle: bool = True,
        chunks: Any = "auto",
    ) -> Array:
        """As :meth:`numpy.random.Generator.choice`.

        Examples
        --------
        >>> import tilework.array as ta
        >>> rng = ta.random.default_rng(0)
        >>> sorted(rng.choice(5, size=5, replace=False, chunks=2).compute().tolist())
        [0, 1, 2, 3, 4]
        """
        a, axis, n = _population(a, axis)
        number, shape = np.ndim(a) == 0, _shape(size)
        if isinstance(p, Array):
            if not replace:
                raise UnsupportedError("choice: a lazy p is possible only with replace=True; compute() it first")
            sizes = normalize(chunks, shape, np.int64)
            positions = self._blockwise("choice", {"a": n, "p": p}, {}, sizes, np.int64)
            return positions if number else take(a, positions, axis)
        if replace and (number or (isinstance(a, np.ndarray) and a.ndim == 1)):
            np.random.default_rng(0).choice(a, 0, p=p)  # for NumPy to judge p
            return self._source("choice", {"a": a, "p": p}, shape, chunks, np.int64 if number else a.dtype)
        picked = self._eager().choice(n, shape, replace, p, shuffle=shuffle)
        return from_array(picked, chunks) if number else _picked(asarray(a), picked, axis, chunks)

    def permutation(self, x: Any, axis: int = 0, chunks: Any = "auto") -> Array:
        """As :meth:`numpy.random.Generator.permutation`. ``chunks`` are those of the result if ``x`` is a number.

        Examples
        --------
        >>> import tilework.array as ta
        >>> sorted(ta.random.default_rng(0).permutation(ta.arange(4, chunks=2)).compute().tolist())
        [0, 1, 2, 3]
        """
        if isinstance(x, int | np.integer):
            return from_array(self._eager().permutation(int(x)), chunks)
        x = asarray(x)
        axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
        if isnan(x.shape[axis]):
            raise UnknownChunksError(f"permutation: axis {axis} has unknown length; call compute_chunk_sizes() first")
        return Array(build.take(x.node, self._eager().permutation(x.shape[axis]), axis, x.chunks[axis]))

    def spawn(self, n_children: int) -> list[Generator]:
        """Independent generators, as :meth:`numpy.random.Generator.spawn`."""
        return [type(self)(seed) for seed in self._seeds.spawn(n_children)]

    # ------------------------------------------------------------ how arrays are drawn

    def _next_seed(self) -> np.random.SeedSequence:
        return self._seeds.spawn(1)[0]

    def _eager(self) -> np.random.Generator:
        """A NumPy generator for what is decided at once."""
        return np.random.Generator(np.random.PCG64(self._next_seed()))

    def _draw(
        self, method: str, parameters: Mapping[str, Any], size: Any, options: Mapping[str, Any], chunks: Any
    ) -> Array:
        values = {name: _parameter(value) for name, value in parameters.items()}
        vectors = method in _VECTORS
        if vectors:
            values = {name: in_memory(value, f"{method}: {name}") for name, value in values.items()}
        shapes = [] if vectors else [np.shape(value) for value in values.values()]
        probe = _probe(method, values, options, shapes)
        shape = np.broadcast_shapes(*shapes) if size is None else _shape(size)
        if not all(_fits(other, shape) for other in shapes):
            raise PlanError(f"{method}: parameters of shapes {shapes} do not broadcast to size={shape}")
        if vectors:
            shape = (*shape, probe.shape[-1])
        if not any(isinstance(value, Array) for value in values.values()):
            return self._source(method, {**values, **options}, shape, chunks, probe.dtype)
        previous = next((v.chunks for v in values.values() if isinstance(v, Array) and v.shape == shape), None)
        sizes = _sizes(method, chunks, shape, probe.dtype, previous)
        return self._blockwise(method, values, options, sizes, probe.dtype)

    def _source(self, method: str, kwargs: Mapping[str, Any], shape: tuple[int, ...], chunks: Any, dtype: Any) -> Array:
        sizes = _sizes(method, chunks, shape, dtype)
        return Array(build.source(RandomSource(method, (), kwargs, self._next_seed(), sizes, dtype), sizes, method))

    def _blockwise(
        self, method: str, values: Mapping[str, Any], options: Mapping[str, Any], sizes: Chunks, dtype: Any
    ) -> Array:
        """Blocks drawn with blocks of lazy parameters."""
        seed = self._next_seed()
        inputs: list[tuple[ArrayNode, tuple[Any, ...]]] = []
        kwargs = dict(options)
        labels = tuple(range(len(sizes)))
        for name, value in values.items():
            if np.ndim(value) == 0 and not isinstance(value, Array):
                kwargs[name] = value
                continue
            x = asarray(value)
            kwargs[name] = Slot(len(inputs))
            if method == "choice":  # the chances of all: every block needs them as a whole
                inputs.append((x.node, tuple((name, k) for k in range(x.ndim))))
                continue
            where = labels[len(labels) - x.ndim :]
            wanted = tuple(c if c.total == 1 else sizes[k] for c, k in zip(x.chunks, where, strict=True))
            inputs.append((build.rechunk(x.node, wanted), where))
        draw = _DrawBlock(method, (seed.entropy, tuple(seed.spawn_key)), sizes)
        function = BlockFunction(draw, (), kwargs, place=True)
        given = {k for node, where in inputs for k, axis in zip(where, node.chunks, strict=True) if axis.total != 1}
        new: dict[Hashable, Any] = {k: sizes[k] for k in labels if k not in given}
        return Array(build.blockwise(function, labels, inputs, dtype, new_axes=new, label=method))


@dataclass(frozen=True, slots=True)
class _DrawBlock:
    """Draws a block, given the parameters' blocks. The generator is the one that RandomSource would use."""

    method: str
    seed: tuple[Any, tuple[int, ...]]
    chunks: Chunks

    def __call__(self, *, block_place: BlockPlace, **kwargs: Any) -> np.ndarray:
        number = int(np.ravel_multi_index(block_place.index, tuple(map(len, self.chunks)))) if self.chunks else 0
        entropy, key = self.seed
        seed = np.random.SeedSequence(entropy, spawn_key=(*key, number))
        size = tuple(axis[k] for axis, k in zip(self.chunks, block_place.index, strict=True))
        drawn = getattr(np.random.Generator(np.random.PCG64(seed)), self.method)(**kwargs, size=size)
        return np.asarray(drawn)


class RandomState(Generator):
    """The older interface: the methods of :class:`numpy.random.RandomState`, on the generators of today.

    Parameters
    ----------
    seed
        A number, or None for one that is different every time.
    """

    def __init__(self, seed: Any = None) -> None:
        super().__init__(seed)

    def seed(self, seed: Any = None) -> None:
        """Begin again from another seed."""
        self._seeds = _seed_sequence(seed)

    def randint(self, low: Any, high: Any = None, size: Any = None, chunks: Any = "auto", dtype: Any = int) -> Array:
        """Integers from ``low`` up to but without ``high``."""
        return self.integers(low, high, size, dtype, chunks=chunks)

    def random_integers(self, low: Any, high: Any = None, size: Any = None, chunks: Any = "auto") -> Array:
        """Integers from ``low`` through ``high``; from 1 if only one is given."""
        low, high = (1, low) if high is None else (low, high)
        return self.integers(low, high, size, int, True, chunks)

    def tomaxint(self, size: Any = None, chunks: Any = "auto") -> Array:
        """Integers from zero up to the largest there is."""
        return self.integers(0, np.iinfo(np.int64).max, size, np.int64, True, chunks)

    def random_sample(self, size: Any = None, chunks: Any = "auto") -> Array:
        """Uniform numbers from 0 to 1."""
        return self.random(size, chunks=chunks)

    def rand(self, *shape: int, chunks: Any = "auto") -> Array:
        """Uniform numbers from 0 to 1, in an array of this shape."""
        return self.random(shape, chunks=chunks)

    def randn(self, *shape: int, chunks: Any = "auto") -> Array:
        """Standard normal numbers, in an array of this shape."""
        return self.standard_normal(shape, chunks=chunks)


def default_rng(seed: Any = None) -> Generator:
    """A generator of random arrays.

    Parameters
    ----------
    seed
        A number, a sequence of numbers, a :class:`numpy.random.SeedSequence`, a NumPy bit generator or generator
        (whose seed is taken), or None for one that is different every time; so is a class of bit generators. A
        generator is passed through.

    Examples
    --------
    >>> import tilework.array as ta
    >>> x = ta.random.default_rng(1).random((1000, 1000), chunks=(500, 500))
    >>> float(x.mean().compute().round(2))
    0.5
    """
    return seed if isinstance(seed, Generator) else Generator(seed)


# ---------------------------------------------------------------- arguments

_VECTORS = ("dirichlet", "multinomial", "multivariate_hypergeometric", "multivariate_normal")
"""Methods whose elements are vectors, and whose parameters describe all of them."""


def _sizes(method: str, chunks: Any, shape: Sequence[int], dtype: Any, previous: Any = None) -> Chunks:
    """Chunks of what a method draws. Vectors are never divided: what is given may leave out their axis."""
    if method not in _VECTORS:
        return normalize(chunks, shape, dtype, previous)
    if not isinstance(chunks, tuple | list | dict):
        chunks = (chunks,) * (len(shape) - 1)
    if not isinstance(chunks, dict) and len(chunks) == len(shape) - 1:
        chunks = (*chunks, -1)
    sizes = normalize(chunks, shape, dtype, previous)
    if len(sizes[-1]) > 1:
        raise PlanError(f"{method}: the last axis is one vector and cannot be divided into chunks {sizes[-1]}")
    return sizes


def _seed_sequence(seed: Any) -> np.random.SeedSequence:
    if isinstance(seed, np.random.RandomState):
        raise UnsupportedError("a numpy RandomState cannot seed lazy arrays; pass the number that it was made from")
    if isinstance(seed, Generator):
        return seed._seeds
    if isinstance(seed, type):  # a kind of bit generator: without a seed of its own
        return np.random.SeedSequence()
    bits = getattr(seed, "bit_generator", seed)
    found = getattr(bits, "seed_seq", bits)
    return found if isinstance(found, np.random.SeedSequence) else np.random.SeedSequence(found)


def _shape(size: Any) -> tuple[int, ...]:
    if size is None:
        return ()
    shape = tuple(size) if np.iterable(size) else (size,)
    if not all(isinstance(n, int | np.integer) and n >= 0 for n in shape):
        raise PlanError(f"size={size!r} is no shape; give a whole number from 0 up, or a tuple of them")
    return tuple(map(int, shape))


def _fits(shape: Sequence[int], into: Sequence[int]) -> bool:
    """Whether ``shape`` broadcasts to ``into``."""
    return len(shape) <= len(into) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(into), strict=False))


def _parameter(value: Any) -> Any:
    """A number, a NumPy array or a lazy array."""
    if value is None or isinstance(value, Array | np.ndarray):
        return value
    return value if np.isscalar(value) else asarray(value) if hasattr(value, "data") else np.asarray(value)


def _probe(method: str, values: Mapping[str, Any], options: Mapping[str, Any], shapes: Sequence[Any]) -> np.ndarray:
    """No draws from the distribution: for their dtype, and for NumPy to judge the parameters."""
    empty = {
        name: np.empty(0, value.dtype) if method not in _VECTORS and isinstance(value, Array | np.ndarray) else value
        for name, value in values.items()
    }
    size = 0 if not any(len(shape) for shape in shapes) else None
    return np.asarray(getattr(np.random.default_rng(0), method)(**empty, **options, size=size))


def _population(a: Any, axis: int) -> tuple[Any, int, int]:
    """What to choose from, a whole number or an array; the axis along which; and how many there are."""
    if isinstance(a, int | np.integer):
        if a <= 0:
            raise PlanError(f"choice: a={a} is no number of things to choose from; give a positive one, or an array")
        return int(a), 0, int(a)
    a = a if isinstance(a, Array) else np.asarray(a)
    axis = np.lib.array_utils.normalize_axis_index(axis, a.ndim)
    return a, axis, known_length(a, axis, "choice") if isinstance(a, Array) else a.shape[axis]


def _picked(a: Array, positions: Any, axis: int, chunks: Any) -> Array:
    """What is at ``positions`` along an axis, which is replaced by the axes of ``positions``."""
    shape = (*a.shape[:axis], *np.shape(positions), *a.shape[axis + 1 :])
    taken = reshape_node(build.take(a.node, np.ravel(positions), axis), shape)
    return Array(build.rechunk(taken, normalize(chunks, shape, a.dtype, taken.chunks)))


# ---------------------------------------------------------------- without a generator

_state = RandomState()


def __getattr__(name: str) -> Any:
    """The methods of one shared :class:`RandomState` are functions of this module: ``ta.random.normal(...)``."""
    if name.startswith("_") or not hasattr(_state, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_state, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for name in dir(_state) if not name.startswith("_"))})


__all__ = ["Generator", "RandomState", "default_rng"]
