#!/usr/bin/env bash
# Test a checkpoint on the unseen classes of a fold:   bash test.sh DATASET FOLD|all [WEIGHTS] [key=value ...]
#   bash test.sh shapes 0 exp/shapes/esda/fold0/TIME/checkpoints/best.pt
#   bash test.sh shapes/clip_prior all  baselines without training have no WEIGHTS
#   NPROC=4 bash test.sh coco 0 FILE    in 4 processes, each on a GPU of its own
set -euo pipefail
cd "$(dirname "$0")"
source util/setup.sh
usage_if_asked "$@"

[[ $# -ge 2 && $1 != *=* && $2 != *=* ]] || fail "usage: bash test.sh DATASET FOLD|all [WEIGHTS] [key=value ...]"
dataset=$1 fold=$2
shift 2
if [[ $# -gt 0 && $1 != *=* ]]; then set -- "weights=$1" "${@:2}"; fi
start test.py "$dataset" "$fold" "$@"
