#!/usr/bin/env bash
# Set up as train.sh does, then check the style and run the tests:   bash tests/run.sh [pytest arguments]
# Without arguments all tests run, a process a core and a thread a process.
set -euo pipefail
cd "$(dirname "$0")/.."
source util/setup.sh
setup tests/requirements.txt
setup requirements-emoji.txt
if [ $# -gt 0 ]; then exec "$python" -m pytest -q "$@"; fi
"$python" -m ruff check .
export OMP_NUM_THREADS=1
# Whole runs come first, so that no core waits for the last of them.
exec "$python" -m pytest -q --numprocesses auto --dist loadfile --no-loadscope-reorder \
    tests/scripts tests/model tests/data tests/util
