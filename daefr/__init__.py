"""DAEFR: the network, its losses and stages, data, measures and restoration. Knows neither Ray nor MLflow."""
