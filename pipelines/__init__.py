"""Cluster jobs: each file with a `main` is a step that runs alone; full.py chains them all."""
