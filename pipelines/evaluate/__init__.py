"""The step `evaluate`: benchmarks, who is evaluated, and the figures of each image."""
