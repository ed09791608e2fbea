"""The error that a person can mend."""


class InputError(ValueError):
    """Bad input from outside: its message is one sentence, printed without a traceback."""

    def __str__(self) -> str:
        """The sentence alone, also where torch puts a data worker's traceback around it."""
        return super().__str__().rpartition(f"{type(self).__name__}: ")[2].strip()
