"""Checks that say what works before anything is trained. What runs in a worker process (`probes`) loads no torch."""
