"""The training loop, what it saves, and how it runs on several ranks. Knows neither Ray nor MLflow."""
