"""Estimates of latency and size."""
