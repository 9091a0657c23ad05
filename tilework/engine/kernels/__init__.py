"""Makes one block of a Program (see :mod:`tilework.plan.stages`). Engines gather the inputs and call :func:`run_stage`.

::

    program    operands, segments, outputs                whole      one function of whole blocks
    tiles      elementwise chains and their reductions    assemble   blocks made of several blocks
    tiling     how a block is cut into tiles              pool       memory for blocks, used again
    context    what a thread keeps between tasks
"""

from tilework.engine.kernels.context import Cancelled, Context
from tilework.engine.kernels.pool import BufferPool
from tilework.engine.kernels.program import run_stage

__all__ = ["BufferPool", "Cancelled", "Context", "run_stage"]
