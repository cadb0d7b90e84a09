"""Shared by all steps: running and resuming them, the cluster, tasks, progress and signals."""
