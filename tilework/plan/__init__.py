"""The symbolic program: operation nodes, the arithmetic of chunks, and the stages that a plan is lowered to."""
