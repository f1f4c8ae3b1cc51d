"""Runs made by hand, for these tests."""
from made_runs import made  # noqa: F401  a fixture
