"""The restoration service: what it accepts, the model that it follows, its answers and its page."""
