#!/bin/sh
# check_layers.sh: the direction of arrows, by grep. A file may include headers of rooms of a lower
# layer and of its own; vulkan.h and volk.h only in gpu/, dnnl.h only in host/, getenv only in
# base/debug.c and cli/, OS headers only in base/os_*.c; no file in src/ over 600 lines.
# Prints every violation, fails if there is one.
# usage: check_layers.sh [src]
# SPDX-License-Identifier: MIT
set -eu
src=${1:-$(dirname "$0")/../src}
[ -d "$src/base" ] || { echo "check_layers: $src has no base/: not the source folder" >&2; exit 2; }
cd "$src"

layer() {
    case $1 in
    base) echo 0 ;;
    file | text | sampler | gpu | host) echo 1 ;;
    graph) echo 2 ;;
    op) echo 3 ;;
    adapter) echo 4 ;;
    nn) echo 5 ;;
    family) echo 6 ;;
    train | eval) echo 7 ;;
    engine) echo 8 ;;
    cli) echo 9 ;;
    *) echo none ;;
    esac
}

violations=$(
    find . -type f \( -name '*.c' -o -name '*.h' -o -name '*.def' \) | sed 's|^\./||' | sort | while read -r file; do
        room=${file%%/*}
        own=$(layer "$room")
        case $file in */*) ;; *) own=8 ;; esac # imago.h and its like, beside the rooms
        [ "$own" != none ] || echo "$file: the room $room has no layer; name it in tests/check_layers.sh"
        lines=$(wc -l <"$file")
        [ "$lines" -le 600 ] || echo "$file: $lines lines, at most 600: split it"

        # "line:header" of every include, then one test per rule
        grep -nE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]' "$file" |
            sed -E 's/^([0-9]+):[^"<]*["<]([^">]*)[">].*/\1 \2/' | while read -r line header; do
            to=${header%%/*}
            other=$(layer "$to")
            case $header in */*) ;; *) other=none ;; esac
            if [ "$other" != none ] && [ "$own" != none ] && [ "$to" != "$room" ] && [ "$other" -ge "$own" ]; then
                echo "$file:$line: $room (layer $own) includes $header (layer $other): arrows point down"
            fi
            case $header in
            vulkan/* | vulkan.h | volk.h) [ "$room" = gpu ] || echo "$file:$line: $header belongs to gpu/" ;;
            dnnl*.h | oneapi/*) [ "$room" = host ] || echo "$file:$line: $header belongs to host/" ;;
            unistd.h | fcntl.h | signal.h | sched.h | sys/*)
                case $file in base/os_*.c) ;; *) echo "$file:$line: $header belongs to base/os_*.c" ;; esac ;;
            esac
        done
        case $file in
        base/debug.c | cli/*) ;;
        *) grep -nE '(^|[^[:alnum:]_])(secure_)?getenv[[:space:]]*\(' "$file" | sed "s|^\([0-9]*\):.*|$file:\1: getenv belongs to base/debug.c|" ;;
        esac
    done
)
if [ -n "$violations" ]; then
    printf '%s\n' "$violations"
    exit 1
fi
echo "layers: ok"
