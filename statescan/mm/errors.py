"""The error that a person can mend."""


class InputError(ValueError):
    """Bad input from outside: its message is one sentence, printed without a traceback."""
