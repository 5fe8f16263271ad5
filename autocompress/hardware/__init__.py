"""Targets: profiles, capabilities and the host."""
