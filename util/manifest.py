"""Tells where this command has gone."""
import sys

sys.exit("util.manifest is now data.samples: python -m data.samples --config FILE fold=0 > M.txt")
