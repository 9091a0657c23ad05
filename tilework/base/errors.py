"""The exception tree. Everything tilework raises on purpose is one of these.

::

    TileworkError
    ├── ConfigError (ValueError)               a setting, budget string or scheduler name that makes no sense
    ├── PlanError (ValueError)                 a program that cannot become a plan: shapes, axes, dtypes
    │   ├── ChunkError                         chunks that do not add up, or do not match each other
    │   │   └── UnknownChunksError             the operation needs chunk sizes that are not known yet
    │   └── DTypeError (TypeError)             a dtype that the operation cannot take
    ├── UnsupportedError (NotImplementedError) NumPy has it, tilework has not; names the nearest alternative
    ├── MemoryBudgetError (MemoryError)        a plan that can never run inside the budget; nothing was started
    ├── BlockResultError (ValueError)          a user function returned another shape or dtype than announced
    ├── StorageError (OSError)                 a source, sink or spill file failed: missing, corrupt, disk full
    ├── ConnectionLostError (ConnectionError)  nobody answers at a cluster's address, or not any more
    ├── ClusterClosedError (RuntimeError)      a client or cluster that was closed, or futures of one
    ├── KilledWorker (RuntimeError)            a task whose worker process died each time that it ran
    │   ├── MemoryLimitError (MemoryError)     a task that took more memory than a worker may have
    │   └── TaskTimeoutError (TimeoutError)    a task that ran for longer than allowed
    ├── RemoteError (RuntimeError)             what a task raised, as text: the exception itself cannot be pickled
    └── InternalError (RuntimeError)           a bug in tilework itself; please report it

Each also derives from the builtin that NumPy or Python would raise in its place, so ``except ValueError`` goes on
working. Messages name the offending value and the operation, and say what to do. An exception that is raised inside
a user's function is never wrapped: it keeps its class and its traceback and gains a note (:pep:`678`) that names the
operation and the block.

Besides there is one warning, :class:`PerformanceWarning`, for what works but is not what was asked for.
"""


class TileworkError(Exception):
    """Root of everything that tilework raises on purpose."""


class ConfigError(TileworkError, ValueError):
    """A setting, a budget string or a scheduler name that makes no sense."""


class PlanError(TileworkError, ValueError):
    """A program that cannot become a plan: shapes, axes, indices."""


class ChunkError(PlanError):
    """Chunks that do not add up to the shape, or do not match each other."""


class UnknownChunksError(ChunkError):
    """The operation needs chunk sizes that are only known after computing."""


class DTypeError(PlanError, TypeError):
    """A dtype that the operation cannot take."""


class UnsupportedError(TileworkError, NotImplementedError):
    """NumPy has this operation and tilework has not; the message names the nearest alternative."""


class MemoryBudgetError(TileworkError, MemoryError):
    """A plan that can never run inside the memory budget. Raised before anything has started."""


class BlockResultError(TileworkError, ValueError):
    """A function returned another shape or dtype for its block than was announced."""


class StorageError(TileworkError, OSError):
    """A source, a sink or a spill file failed: missing, closed, corrupt, or the disk is full."""


class ConnectionLostError(TileworkError, ConnectionError):
    """Nobody answers at a cluster's address, or the cluster that did has ended."""


class ClusterClosedError(TileworkError, RuntimeError):
    """A client or cluster that was closed was asked for something, or a future of one."""


class KilledWorker(TileworkError, RuntimeError):
    """A task was not finished, since the worker process that ran it died, again and again. The message is the story."""


class MemoryLimitError(KilledWorker, MemoryError):
    """A task was stopped, since its worker process took more memory than it may."""


class TaskTimeoutError(KilledWorker, TimeoutError):
    """A task was stopped, since it ran for longer than ``task_timeout``."""


class RemoteError(TileworkError, RuntimeError):
    """What a task raised in another process, as text: its class, its message and its traceback.

    Stands for an exception that cannot be pickled, or not be unpickled here.
    """


class PerformanceWarning(UserWarning):
    """An operation makes blocks that are larger than blocks should be."""


class InternalError(TileworkError, RuntimeError):
    """A bug in tilework itself, never the user's fault. Please report it with the message."""
