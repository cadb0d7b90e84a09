"""MLflow: runs, metrics, the model registry, champions and their history, and the pyfunc model."""
