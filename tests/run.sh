#!/usr/bin/env bash
# Set up as train.sh does, then check the style and run the tests:   bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source util/setup.sh
setup tests/requirements.txt
[ $# -gt 0 ] || "$python" -m ruff check .
exec "$python" -m pytest -q "$@"
