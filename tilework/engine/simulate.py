"""The scheduler core under a virtual clock: thousands of workers in one thread, to see what scheduling itself costs."""
