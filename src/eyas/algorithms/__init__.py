"""Algorithms turn samples into credit and pick a loss; the trainer does not know which one runs.

What a recipe says of them (`registry`, `options`, a file a paper) loads no torch.
"""
