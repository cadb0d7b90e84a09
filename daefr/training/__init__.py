"""The training loop, on any number of ranks, without Ray and MLflow."""
