"""The names of the items, which the command's help shows without importing PyTorch."""

ITEM_NAMES = (
    "machine",
    "compile_ahead",
    "dataset",
    "parity",
    "resume",
    "ranks",
    "compile_ahead_end",
    "steps",
    "loading",
    "restoring",
    "photographs",
    "kernels",
    "largest_batch",
    "compiled_restoring",
    "compiled_float32",
)
"""The most important first: what comes late is left out where time is short."""
