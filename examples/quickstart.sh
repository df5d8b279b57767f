#!/bin/sh
# quickstart.sh: from a fresh checkout to a running imago: installs what is missing, builds, lists the
# devices and makes pictures with the bundled model and morphs one into another. A second run installs and rebuilds nothing.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."

sh examples/setup.sh
[ -f build/build.ninja ] || cmake --preset release
cmake --build build

./build/imago devices
sh examples/01_generate.sh
./build/imago morph examples/out/generate/02.png examples/out/generate/03.png \
    --prompt-a "a glossy 3D render of a red heart" --prompt-b "a glossy 3D render of a blue heart" \
    -o examples/out/quickstart-morph --overwrite
echo "a morph to play with: examples/out/quickstart-morph/morph.html"
