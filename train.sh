#!/usr/bin/env bash
# Train on one fold and test on its unseen classes:   bash train.sh [DATASET] [FOLD|all] [key=value ...]
#   bash train.sh                       Shapes-5i, fold 0: nothing to download
#   bash train.sh shapes all            the four folds one after another, then their table
#   bash train.sh shapes/supervised 2   another configuration: config/shapes/supervised.yaml
#   bash train.sh pascal 0 --dry-run    check data, weights, device and disk, and predict memory and time
#   bash train.sh resume=RUN            go on with the run in folder RUN, by its own options
#   GPUS=0,1 bash train.sh pascal all   the folds side by side, one on each GPU; GPUS=auto: on all that are there
#   NPROC=4 bash train.sh coco          the same training in 4 processes, each on a GPU of its own
set -euo pipefail
cd "$(dirname "$0")"
source util/setup.sh
usage_if_asked "$@"

words=() options=()
for argument; do
    case $argument in
        --dry-run) options+=(dry_run=true) ;;
        *=*) options+=("$argument") ;;
        *) words+=("$argument") ;;
    esac
done
set -- ${words[@]+"${words[@]:2}"} ${options[@]+"${options[@]}"}
if [[ ${#words[@]} == 0 && " $*" == *" resume="* && " $*" != *" resume=auto"* ]]; then  # by the run's own options
    launch_of
    setup requirements.txt
    exec "$python" ${launch[@]+"${launch[@]}"} train.py "$@"
fi
start train.py "${words[0]:-shapes}" "${words[1]:-0}" "$@"
