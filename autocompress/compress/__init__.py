"""Pure functions from a graph and a plan to a graph."""
