"""Runs task graphs and futures on worker processes of this machine. See docs/design/cluster.md.

::

    client      a client's connection, and the engines that run task graphs over it
    scheduler   the scheduler process: one loop without user code, between clients and workers
    start       how the processes come into being: launch, nursery
    workers     the worker process
    store       memory that all of them share, and values in it
    wire        what they say to each other, how, and how strangers are kept out
"""
