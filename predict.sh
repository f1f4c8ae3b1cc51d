#!/usr/bin/env bash
# Find named things in images:   bash predict.sh IMAGE|FOLDER|GLOB... --names NAME... [--weights FILE] [--out DIR]
#   bash predict.sh scenes/*.jpg --names star key                  the shipped model of Shapes-5i
#   bash predict.sh photo.jpg --names cat sofa --model naclip      CLIP alone, for photographs
#   bash predict.sh folder --names cat --weights exp/.../checkpoints/best.pt --out found
# Paths are as seen from where you call it. docs/predict.md explains all of it; predict.py --help lists the options.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")"
root=$PWD
source util/setup.sh
setup requirements.txt
[[ $python != */* ]] || python=$root/$python
cd "$caller"
exec "$python" "$root/predict.py" "$@"
