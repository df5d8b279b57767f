#!/bin/sh
# quickstart.sh: from a fresh checkout to a running imago: installs what is missing, builds, lists the
# devices and trains the tiny UNet for a few steps. A second run installs and rebuilds nothing.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."

sh examples/setup.sh
[ -f build/build.ninja ] || cmake --preset release
cmake --build build

./build/imago devices
./build/imago train-tiny --steps 20
