"""The command line: ``tilework run``, ``tilework explain``, ``tilework doctor``."""
