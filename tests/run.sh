#!/bin/sh
# run.sh: installs what is missing, builds, runs every test. Arguments go to ctest:
#   sh tests/run.sh -L quick        only what needs no Vulkan driver
#   sh tests/run.sh -R ops          only tests with "ops" in the name
# Fails if anything fails. One test at a time: each uses all cores.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."

sh examples/setup.sh
[ -f build/build.ninja ] || cmake --preset release
cmake --build build
ctest --test-dir build --output-on-failure --no-tests=error -j1 "$@"
