"""The names of the items, for the command's help, which does not import PyTorch."""

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
"""The most important first, since the last ones are skipped if time runs out."""
