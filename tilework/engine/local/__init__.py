"""Runs task graphs on this machine: ``sync`` and ``threads``.

::

    state     the scheduler core: pure transitions          check     its invariants, for tests
    budget    refuse, and predict, before anything runs     spill     blocks on disk
    execute   turns a task's number into a call             sizeof    what a Python value weighs
    loop      drives the core with real workers             sync, threads   the two engines
"""
