"""Training a stage with Ray Train: what runs in the driver, in Ray's controller and in each worker."""
