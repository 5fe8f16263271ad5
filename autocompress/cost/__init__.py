"""Estimates of latency."""
