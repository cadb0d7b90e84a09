"""What `pipelines/evaluate.py` is made of: benchmarks, who is evaluated, and the figures of each image."""
