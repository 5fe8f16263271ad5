"""Artifacts as folders that are ready to deploy."""
