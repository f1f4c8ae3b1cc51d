#!/usr/bin/env bash
# Set up as train.sh does and run the tests:   bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source util/setup.sh
setup tests/requirements.txt
exec "$python" -m pytest -q "${@:-tests}"
