"""Checks and benchmarks of this project on a GPU, without Ray and MLflow.

`items` lists the checks in order of importance, one module each; `runner` runs them within a time limit and stores the
results; `workload` builds the stages that they train, with random weights and images.
"""
