"""Run folders and studies on disk."""
