#!/bin/sh
# 02_morph.sh: turns pictures that the bundled model draws into each other, and measures how even that is. Everything goes into
# examples/out/morph (or the folder named), nothing else is written.
# usage: examples/02_morph.sh [FOLDER]
# SPDX-License-Identifier: MIT
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
imago="$here/build/imago"
model="$here/models/imago-base"
out=${1:-$here/examples/out/morph}
[ -x "$imago" ] || { echo "no $imago: run examples/quickstart.sh first" >&2; exit 1; }
[ -d "$model" ] || { echo "no model in $model" >&2; exit 1; }
mkdir -p "$out"

a="a flat illustration of a red heart"
b="a flat illustration of a star"
c="a flat illustration of a red apple"
"$imago" generate -m "$model" -p "$a" --seed 1 -o "$out/a.png" --overwrite
"$imago" generate -m "$model" -p "$b" --seed 1 -o "$out/b.png" --overwrite
"$imago" generate -m "$model" -p "$c" --seed 1 -o "$out/c.png" --overwrite

# two pictures, seven frames; then all three in a ring
"$imago" morph -m "$model" "$out/a.png" "$out/b.png" --prompt-a "$a" --prompt-b "$b" -o "$out/pair" --overwrite
"$imago" morph -m "$model" "$out/a.png" "$out/b.png" "$out/c.png" -p "$a" -p "$b" -p "$c" --loop --frames 9 -o "$out/ring" --overwrite
"$imago" eval morph -m "$model" "$out/pair"

echo "look at $out/pair/strip.png, and open $out/pair/morph.html and $out/ring/morph.html in a browser"
