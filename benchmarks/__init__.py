"""Measurements against peers, and one asserting script for each claim of README."""
