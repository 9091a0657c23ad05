"""What the scheduler core says: the states of a task, the arrows between them, and the instructions to engines.

::

             unblock           assign            finish          release
    WAITING ─────────▶ READY ─────────▶ RUNNING ────────▶ HELD ─────────────────▶ RELEASED
     │ ▲ ▲  set_apart ▼     ▲ rejoin     ▲ ▲ │ │          ▲ │ ▲                        ▲
     │ │ │             APART ─── assign ─┘ │ │ │     keep │ │ └ loaded ── LOADING ◀─┐   │
     │ │ └──────────── give_back ──────────┼─┘ │          │ ▼ spill   unload │      │   │
     └─┼───────────────── assign ──────────┘   │        SPILLING             ▼      │   │
       │                                  fail │            └── spilled ─▶ SPILLED ─┤   │
       └────────────────── retry ──────────┐   │                              load ─┘   │
                  fail                     │   ▼    release                             │
     WAITING, READY, APART ─────────────▶ FAILED ───────────── (and SPILLED) ───────────┘

Before a task has run its state speaks of the task, afterwards of its block. :data:`TRANSITIONS` is that picture as a
table, and every change of state goes through it: what the table does not list raises
:class:`~tilework.base.errors.InternalError` and changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeAlias

# ---------------------------------------------------------------- states and transitions

WAITING: Final = 0  # some input is not finished
READY: Final = 1  # all inputs are finished, and on disk at worst
APART: Final = 2  # the same, but it is not for just any worker, or not for a batch with others
RUNNING: Final = 3  # in the batch of one worker
HELD: Final = 4  # finished; its block is in memory
SPILLING: Final = 5  # on its way to disk, still in memory
SPILLED: Final = 6  # on disk only
LOADING: Final = 7  # on its way back; the worker that will use it is loading it
RELEASED: Final = 8  # nobody will ask for it any more: nobody has the block
FAILED: Final = 9  # will not run: it raised, was cancelled, or needs one that will not run
STATES: Final = (
    "waiting", "ready", "apart", "running", "held", "spilling", "spilled", "loading", "released", "failed"
)  # fmt: skip

TRANSITIONS: Final[dict[str, dict[int, int]]] = {
    "unblock": {WAITING: READY},
    "set_apart": {READY: APART},
    "rejoin": {APART: READY},
    "assign": {READY: RUNNING, APART: RUNNING, WAITING: RUNNING},  # WAITING: behind its last inputs, in the same batch
    "give_back": {RUNNING: WAITING},  # "unblock" follows at once if nothing is missing
    "finish": {RUNNING: HELD},
    "fail": {RUNNING: FAILED, WAITING: FAILED, READY: FAILED, APART: FAILED},
    "retry": {FAILED: WAITING},  # again "unblock" follows if nothing is missing
    "spill": {HELD: SPILLING},
    "spilled": {SPILLING: SPILLED},
    "keep": {SPILLING: HELD},
    "load": {SPILLED: LOADING},
    "loaded": {LOADING: HELD},
    "unload": {LOADING: SPILLED},
    "release": {HELD: RELEASED, SPILLED: RELEASED, FAILED: RELEASED},
}

ILLEGAL: Final = 255
STEPS: Final = {  # the same for bytes.translate, which checks and maps a whole batch at once
    event: bytes(arrows.get(state, ILLEGAL) for state in range(256)) for event, arrows in TRANSITIONS.items()
}

# ---------------------------------------------------------------- instructions


@dataclass(slots=True, eq=False)
class Run:
    """Run ``tasks`` one after another, after loading the blocks ``loads`` from disk (and reporting ``loaded``).

    The scheduler keeps the same object until the batch is reported; ``returned`` shortens ``tasks``.
    """

    tasks: list[int]
    loads: list[int] = field(default_factory=list)
    reserved: int = 0  # bytes: what all blocks will weigh, the largest scratch, and loads until they are held
    scratch: int = 0
    allowance: int = 0  # if the blocks turn out to weigh more together, return the rest instead of starting it
    alone: bool = False  # the one task wants a process to itself: it is suspected of killing it


@dataclass(slots=True, eq=False)
class Spill:
    """Write these blocks to disk, then drop them from memory. Report each as ``spilled`` or ``kept``."""

    blocks: list[int]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do until another worker has reported something, or something was added."""


@dataclass(frozen=True, slots=True)
class Stop:
    """There is no more work for this worker, unless some is added."""


WAIT: Final = Wait()
STOP: Final = Stop()
Instruction: TypeAlias = Run | Spill | Wait | Stop
