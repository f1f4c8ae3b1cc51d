"""Marks of tests that need what not every environment has."""
from importlib.util import find_spec

import pytest

from data.shapes.artwork import PACKAGES

needs_artwork = pytest.mark.skipif(not all(map(find_spec, PACKAGES.values())),
                                   reason="needs requirements-emoji.txt, and it is not installed")
