#!/bin/sh
# quickstart.sh: from a fresh checkout to a running imago: installs what is missing, builds, lists the
# devices and makes pictures with the bundled model. A second run installs and rebuilds nothing.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."

sh examples/setup.sh
[ -f build/build.ninja ] || cmake --preset release
cmake --build build

./build/imago devices
sh examples/01_generate.sh
