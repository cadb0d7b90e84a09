"""Settings of networks, training and metrics; free of PyTorch, so that configurations load quickly."""
