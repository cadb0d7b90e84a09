"""Cluster jobs: one folder per step, `commands` and `chain` above them, `engine`, `tracking` and `storage` below."""
