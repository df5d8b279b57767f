#!/bin/sh
# build.sh OUT: makes the emoji128 training corpus in the folder OUT (27 MB), from npm packages whose
# versions and hashes package-lock.json pins. Downloads about 90 MB; renders 10,813 pictures in some
# minutes. Needs node, npm, rsvg-convert, pngquant and dwebp; names what is missing.
# SPDX-License-Identifier: MIT
set -eu
[ $# -eq 1 ] || { echo "usage: sh build.sh OUT" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)

missing=
for t in node:nodejs npm:npm rsvg-convert:librsvg2-bin pngquant:pngquant dwebp:webp; do
    command -v "${t%%:*}" >/dev/null 2>&1 || missing="$missing ${t#*:}"
done
if [ -n "$missing" ]; then
    echo "corpus: programs are missing. On Debian and Ubuntu: apt-get install$missing" >&2
    exit 1
fi

mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cp "$here/package.json" "$here/package-lock.json" "$work"
(cd "$work" && npm ci --ignore-scripts --no-audit --no-fund)
node "$here/build.mjs" "$work/node_modules" "$here" "$out"
