"""NumPy and the array API in chunks: ``import tilework.array as ta``."""
