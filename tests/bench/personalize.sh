#!/bin/sh
# personalize.sh: the bundled model learns subjects one by one, with several adapters of comparable size, and `imago eval
# personalize` says how like the subject they draw and what it cost, at 5 stations of every run. What is done is kept:
# the same command goes on where it was stopped. Hours for a whole set.
# usage: personalize.sh SET_FOLDER WORK_FOLDER [SUBJECT ...]
#   SET_FOLDER   holds subjects.tsv or characters.tsv (subject class role image caption, by their header line), or is the packed
#                picture corpus: then 10 of the things that it holds out, the style left out being the target
#   ADAPTERS="lora oft coft boft"  STEPS=240  DATA=corpus folder (else no thing and style tests)  MODEL=folder  EVAL="--cfg 4" (of
#   imago eval personalize) in the environment
# WORK/SUBJECT/report: sheet.png, curves.png, eval.json; WORK/summary: the same of all.       SPDX-License-Identifier: MIT
set -eu
[ $# -ge 2 ] || { sed -n '5,10s/^# //p' "$0" >&2; exit 2; }
set_folder=$1 work=$2
shift 2
imago=$(dirname "$0")/../../build/imago
adapters=${ADAPTERS:-lora oft coft boft} steps=${STEPS:-240} options=${EVAL:---cfg 4}
token=sks batch=2
mkdir -p "$work"

# lines "subject class role file caption" of a table, whatever the order of its columns
rows() {
    awk -F '\t' 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; s = at["subject"] ? at["subject"] : at["identity"]; next }
        { name = $s; gsub(" ", "_", name); print name "\t" $at["class"] "\t" $at["role"] "\t" $at["image"] "\t" $at["caption"] }' "$1"
}

# WORK/SUBJECT/references and targets, with captions; WORK/SUBJECT/class
lay_out_table() {
    rows "$1" | while IFS="$(printf '\t')" read -r subject class role file caption; do
        case $role in ref) to=references ;; *) to=targets ;; esac
        mkdir -p "$work/$subject/$to"
        name=$(basename "$file")
        cp "$set_folder/$file" "$work/$subject/$to/$name"
        printf '%s\n' "$caption" | sed "s/{token}/$token/; s/{class}/$class/" >"$work/$subject/$to/${name%.*}.txt"
        printf '%s\n' "$class" >"$work/$subject/class"
    done
}

# Ten held-out things: up to five styles to learn from, another to draw, which differs from thing to thing.
lay_out_corpus() {
    printf '%s\n' 'cactus plant 1f335 twe' 'avocado fruit 1f951 flat' 'teapot pot 1fad6 noto' 'skateboard board 1f6f9 3d' 'sailboat boat 26f5 blob' \
        'hedgehog animal 1f994 noto' 'backpack bag 1f392 one' 'shoe shoe 1f460 3d' 'accordion instrument 1fa97 twe' 'moai statue 1f5ff flat' |
        while read -r subject class key left_out; do
            n=0
            for style in "$left_out" 3d flat noto twe blob one line; do
                line=$(awk -F '\t' -v s="$style" -v k="$key" '$1 == s && $2 == k { print $3, $4 }' "$set_folder/index.tsv")
                [ -n "$line" ] || continue
                to=references
                [ $n -gt 0 ] || to=targets
                [ $n -eq 0 ] || [ "$style" != "$left_out" ] || continue
                [ $n -le 5 ] || continue
                n=$((n + 1))
                mkdir -p "$work/$subject/$to"
                tail -c "+$((${line% *} + 1))" "$set_folder/$style.pngs" | head -c "${line#* }" >"$work/$subject/$to/$style.png"
                phrase=$(awk -F '\t' -v s="$style" '$1 == s { print $2 }' "$set_folder/styles.tsv")
                printf '%s of a %s %s\n' "$phrase" "$token" "$class" >"$work/$subject/$to/$style.txt"
            done
            printf '%s\n' "$class" >"$work/$subject/class"
        done
}

[ ! -f "$set_folder/index.tsv" ] || batch=6 # there is one target
if [ ! -f "$work/laid_out" ]; then
    if [ -f "$set_folder/subjects.tsv" ]; then lay_out_table "$set_folder/subjects.tsv"
    elif [ -f "$set_folder/characters.tsv" ]; then lay_out_table "$set_folder/characters.tsv"
    else lay_out_corpus; fi
    mkdir -p "$work/among"
    for class in "$work"/*/class; do
        subject=$(basename "$(dirname "$class")")
        cp -r "$work/$subject/references" "$work/among/$subject"
    done
    : >"$work/laid_out"
fi
[ $# -gt 0 ] || set -- $(for class in "$work"/*/class; do basename "$(dirname "$class")"; done)

reports=
for subject in "$@"; do
    here=$work/$subject
    class=$(cat "$here/class")
    stations=
    for adapter in $adapters; do
        case $adapter in # 1,536, 1,440, 1,440 and 1,536 numbers for a projection of 192
        lora) how="--rank 4 --lr 1e-3" ;;
        boft) how="--block 8 --factors 2 --lr 6e-4" ;;
        *) how="--block 16 --lr 6e-4" ;;
        esac
        [ -f "$here/$adapter.safetensors" ] ||
            "$imago" personalize "$here/references" ${MODEL:+-m "$MODEL"} --token $token --class "$class" --adapter "$adapter" $how \
                --steps "$steps" --save-every $((steps / 5)) -o "$here/$adapter.safetensors"
        stations="$stations $(ls "$here/$adapter.run"/adapter-[0-9]*.safetensors)"
    done
    [ -f "$here/report/eval.json" ] ||
        "$imago" eval personalize $stations ${MODEL:+-m "$MODEL"} --references "$here/references" --targets "$here/targets" \
            --among "$work/among" --subject "$subject" --token $token --class "$class" --batch $batch $options ${DATA:+--data "$DATA"} -o "$here/report"
    reports="$reports $here/report"
done
"$imago" eval personalize --summary $reports -o "$work/summary" --overwrite
