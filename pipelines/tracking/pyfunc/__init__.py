"""The restoration model in MLflow's pyfunc format, which does not depend on the pipelines."""
