"""The exception that means "the user can mend this", and how any error is shown in one line."""


class UserError(Exception):
    """Bad input. Its text is one sentence for the user: what is wrong, where, and what is valid.

    Command lines print it after ``error:`` and exit with code 2, without a traceback.
    """


def one_line(error: object, limit: int = 300) -> str:
    """Return the text of an error in one line of at most `limit` characters; its type's name if it has no text."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
