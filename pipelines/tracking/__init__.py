"""MLflow: runs, metrics, the model registry, promotions, and the pyfunc model."""
