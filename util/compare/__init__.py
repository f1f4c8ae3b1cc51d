"""Runs beside each other: ``python -m util.compare RUN [RUN ...]`` (see __main__.py)."""
