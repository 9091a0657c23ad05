"""The worker process: takes batches of tasks and runs them."""
