"""Ground floor: settings, errors, tokens, byte sizes and what the machine has. Imports nothing of tilework above it."""
