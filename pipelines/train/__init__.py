"""The step `train`: trains a stage with Ray Train."""
