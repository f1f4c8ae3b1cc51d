"""The command ``python -m data.lists``; the code is in data/prepare/own.py."""
from data.prepare.own import main
from util.runtime.errors import run_main

if __name__ == "__main__":
    run_main(main)
