#!/bin/sh
# 04_grid.sh: three grids: a change of style by example, a subject in a new place, two things together.
# usage: 04_grid.sh MODEL GRID_ADAPTER [OUTPUT_FOLDER]
#   MODEL         the model that the adapter was trained on
#   GRID_ADAPTER  a file of `imago train-grid`
# The pictures that are given are made by the model itself, so nothing else is needed.
# SPDX-License-Identifier: MIT
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 MODEL GRID_ADAPTER [OUTPUT_FOLDER]" >&2
    exit 2
fi
model=$1 adapter=$2 out=${3:-examples/out/grid}
imago=$(dirname "$0")/../build/imago

picture() { # NAME PROMPT
    "$imago" generate -m "$model" -p "$2" -s 1 -o "$out/$1.png" --overwrite
}
grid() { # FOLDER, then what imago grid takes
    folder=$1
    shift
    "$imago" grid "$@" -m "$model" -g "$adapter" -o "$out/$folder" --overwrite
}

mkdir -p "$out"
picture apple "a glossy 3D render of a red apple"
picture apple-ink "a black ink drawing of a red apple"
picture car "a glossy 3D render of an automobile"
picture face "a glossy 3D render of a grinning face"

grid style edit "$out/apple.png" "$out/apple-ink.png" "$out/car.png"
grid place subject "$out/apple.png" --prompt "a red apple on a blue background"
grid both compose "$out/apple.png" "$out/face.png" --prompt "a red apple and a grinning face"
echo "three grids: $out/style/grid.png $out/place/grid.png $out/both/grid.png"
