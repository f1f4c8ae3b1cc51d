"""What model/ raises for files and sizes that do not fit; apart from torch, so that scripts can name it at once."""


class WeightsError(Exception):
    """A weights file that is missing, unreadable or does not fit; the message says what to do."""
