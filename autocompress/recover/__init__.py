"""Winning accuracy back."""
