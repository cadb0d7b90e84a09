"""How a job can fail other than by the user's mistake."""


class StepFailedError(Exception):
    """A step could not be finished. Its text is one line that names the cause."""
