"""Guided thoughts: correctors, and what becomes of their corrections. What a recipe says of it (`options`) loads no torch."""
