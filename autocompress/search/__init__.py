"""The space, the samplers and the loop."""
