"""Names that several steps share."""

VALIDATION = "validation"
"""The benchmark of the dataset's own validation faces."""
