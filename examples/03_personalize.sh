#!/bin/sh
# 03_personalize.sh: the bundled model learns a lion it has never seen from five pictures of it, and
# draws it elsewhere: with lora and with an orthogonal adapter (boft), compared. A few minutes on two
# cores. Results: examples/out/personalize/report/sheet.png and eval.json, and the adapters beside.
# usage: 03_personalize.sh [MODEL [WORK_FOLDER]]      MODEL: models/imago-base unless given
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
model=${1:-models/imago-base}
work=${2:-examples/out/personalize}
sh examples/setup.sh
[ -f build/build.ninja ] || cmake --preset release
cmake --build build
[ -f "$model/model_index.json" ] || { echo "03_personalize: no model in $model: name one" >&2; exit 1; }

# The subject: pictures that stand in the sources. NAME.txt is what each shows; "sks" shall mean it.
subject=examples/subjects/lion
mkdir -p "$work/references" "$work/targets"
cp "$subject"/ref_* "$work/references"
cp "$subject"/target_* "$work/targets"

for adapter in lora boft; do
    case $adapter in
    lora) set -- --adapter lora --rank 4 --lr 1e-3 ;;
    boft) set -- --adapter boft --block 8 --factors 2 --lr 6e-4 ;; # as many numbers as lora
    esac
    [ -f "$work/$adapter.safetensors" ] ||
        build/imago personalize "$work/references" -m "$model" --token sks --class animal \
            --class-prompt "a glossy 3D render of an animal" --steps 240 --save-every 120 \
            "$@" -o "$work/$adapter.safetensors"
    build/imago eval adapter -m "$model" "$work/$adapter.safetensors"
done

build/imago generate -m "$model" --adapter "$work/boft.safetensors" -b 4 \
    -p "a glossy 3D render of a sks animal on a red background" -o "$work/boft-%02d.png"
build/imago eval personalize "$work/lora.safetensors" "$work/boft.safetensors" -m "$model" \
    --references "$work/references" --targets "$work/targets" --token sks -o "$work/report" --overwrite
echo "See $work/report/sheet.png: references, targets, the model itself, lora, boft."
