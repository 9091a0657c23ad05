"""Speed and memory against the peers a user would pick. ``make bench`` runs all and writes RESULTS.md."""
