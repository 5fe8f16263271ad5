"""Data, metrics, and from a plan to a trial."""
