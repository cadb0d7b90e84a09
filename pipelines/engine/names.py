"""Names that several steps share."""

VALIDATION = "validation"
"""The name that the dataset's own validation faces have among the benchmarks."""
