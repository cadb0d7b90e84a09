"""The errors that end a training before its last step."""


class NonFiniteLossError(Exception):
    """A loss or gradient became infinite or NaN; no optimizer has stepped on it."""


class HungRankError(Exception):
    """A rank did not answer within the timeout; the message names it."""


class StoppedError(Exception):
    """The training stopped on request; its last checkpoint is of its last step."""
