"""Sources and sinks: where blocks come from and where they go (see :mod:`tilework.plan.protocols`)."""
