"""The errors that end a training before its last step."""


class NonFiniteLossError(Exception):
    """A loss or gradient is infinite or NaN; no optimizer has used it."""


class HungRankError(Exception):
    """A rank did not answer within the timeout; the message names it."""


class StoppedError(Exception):
    """The training stopped on request, after a checkpoint of its last step."""
