"""Exception of model/ for files and sizes that do not fit; without torch, so that scripts can name it at once."""


class WeightsError(Exception):
    """Missing, unreadable or unfitting weights file; the message says what to do."""
