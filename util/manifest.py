"""Where this command has gone."""
import sys

sys.exit("util.manifest is now data.manifest: python -m data.manifest --config FILE fold=0 > M.txt")
