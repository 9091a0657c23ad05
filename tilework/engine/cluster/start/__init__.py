"""How the processes of a cluster come into being."""
