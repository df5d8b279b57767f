#!/bin/sh
# setup.sh: installs what imago is built from, on Debian 12 and Ubuntu 24.04 (root or sudo).
# Installs only what is missing, asks nothing, and when nothing is missing touches nothing.
# quickstart.sh and tests/run.sh call it; other systems: see the message at the end.
# SPDX-License-Identifier: MIT
set -eu

# What is missing for a command may come from anywhere (/usr/local counts): "command:package".
tools="gcc:gcc cmake:cmake ninja:ninja-build glslc:glslc"
# libc6-dev: only a recommendation of gcc. Vulkan: headers, run-time loading, the software driver, checks.
libraries="libc6-dev libdnnl-dev libvulkan-dev libvulkan-volk-dev mesa-vulkan-drivers
    vulkan-validationlayers libcjson-dev libpng-dev libstb-dev libwebp-dev libutf8proc-dev zlib1g-dev"

missing=
all=
for t in $tools; do
    all="$all ${t#*:}"
    command -v "${t%%:*}" >/dev/null 2>&1 || missing="$missing ${t#*:}"
done
have=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p') || have=
for p in $libraries; do
    all="$all $p"
    printf '%s\n' "$have" | grep -qxF -- "$p" || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
    echo "imago: this script installs packages on Debian 12 and Ubuntu 24.04 only." >&2
    echo "imago: here you need what these hold there:$all" >&2
    echo "imago: going on; the build will name what it does not find." >&2
    exit 0
fi

install="apt-get install -y --no-install-recommends$missing"
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null 2>&1; then
    as_root=sudo
else
    echo "imago: packages are missing and there is neither root nor sudo. As root, run:" >&2
    echo "    $install" >&2
    exit 1
fi

echo "imago: installing$missing"
apt() {
    # shellcheck disable=SC2086  # as_root is empty or one word
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"
}
apt update || echo "imago: the package lists could not be renewed; trying with the present ones" >&2
# shellcheck disable=SC2086  # a list of packages
if ! apt install -y --no-install-recommends $missing; then
    echo "imago: could not install:$missing" >&2
    echo "imago: check the network and, on Ubuntu, that the 'universe' component is enabled; then run:" >&2
    echo "    ${as_root:+sudo }$install" >&2
    exit 1
fi
