"""Latency, measured."""
