"""What ends a training before its last step."""


class NonFiniteLossError(Exception):
    """A loss or gradient became infinite or no number; no optimizer has stepped on it."""


class HungRankError(Exception):
    """A rank did not come to where the others waited for it; the text names it."""


class StoppedError(Exception):
    """The training was asked to stop, and has: its last checkpoint is of its last step."""
