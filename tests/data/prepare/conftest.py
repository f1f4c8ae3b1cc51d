"""Miniature archives, for these tests."""
from miniature import archives, made, prepare, sets, spoilt, unpacked  # noqa: F401  fixtures
