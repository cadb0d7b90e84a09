"""What restoring photographs can be asked for, known without PyTorch."""

BATCH_SIZE = 4
"""Photographs and faces at once, unless stated otherwise."""
SCALES = (1, 2, 4)
"""How many times a photograph can be enlarged."""
