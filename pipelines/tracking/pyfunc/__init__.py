"""The restoration model as MLflow loads and serves it: all that restoring takes, and nothing of the pipeline."""
