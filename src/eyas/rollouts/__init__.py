"""Collecting, recording and reading trajectories."""
