"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad input. Its text is one sentence for the user: what is wrong, where, and what is valid.

    Command lines print it after ``error:`` and exit with code 2, without a traceback.
    """
