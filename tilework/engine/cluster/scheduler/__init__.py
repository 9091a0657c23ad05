"""The scheduler process: one loop without user code that joins clients, workers and the scheduler core."""
