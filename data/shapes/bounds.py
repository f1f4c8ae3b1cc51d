"""Tells where this command has gone."""
import sys

sys.exit("data.shapes.bounds is now util.evaluation.bounds: python -m util.evaluation.bounds [key=value ...]")
