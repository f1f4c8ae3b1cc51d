"""The command ``python -m data.verify``; the code is in data/prepare/verify.py."""
from data.prepare.verify import main
from util.runtime.errors import run_main

if __name__ == "__main__":
    run_main(main)
