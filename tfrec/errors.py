"""Errors that a person can act on: commands show them as one line, without a traceback."""


class TfrecError(ValueError):
    """What came, what was expected and how to mend it, in one sentence or two."""
