#!/bin/sh
# 01_generate.sh: pictures from words with the bundled model: a sheet of eight things in two styles.
# usage: 01_generate.sh [OUTPUT FOLDER]     (examples/out/generate)     SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
out=${1:-examples/out/generate}
mkdir -p "$out"

for style in "a glossy 3D render of" "a shaded vector icon of"; do
    for thing in "a grinning face" "a red heart" "a blue heart" "a red apple" \
        "an automobile" "a bus" "a globe showing Americas" "a six o’clock"; do
        echo "$style $thing"
    done
done > "$out/prompts.txt"

build/imago generate -p "@$out/prompts.txt" --plain-prompt --sampler ddim --cfg 4 --seed 1 \
    -o "$out/%02d.png" --sheet "$out/sheet.png" --overwrite
echo "look at $out/sheet.png"
