"""What this package raises: ValueErrors whose message is one sentence for the person who called."""


class DegradationError(ValueError):
    """Something handed to this package cannot be degraded, decoded or enlarged."""


class UnknownRecipeError(DegradationError):
    """A recipe name that does not exist; the message lists those that do."""
