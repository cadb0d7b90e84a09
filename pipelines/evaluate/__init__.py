"""The step `evaluate`: benchmarks, evaluation targets, and the metrics of each image."""
