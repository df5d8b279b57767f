#!/bin/sh
# Compiles the shaders whose first line says "needs: coopmat" into prebuilt/NAME.inc, for machines whose
# glslc does not know GL_KHR_cooperative_matrix. Run it with a glslc that does (shaderc 2024 or later) after
# changing such a shader or a lib file it includes:
#     GLSLC=/path/to/glslc sh shaders/prebuilt/make.sh
# GLSLC may hold arguments. SPIRV_VAL, when set, checks every module.
set -e
cd "$(dirname "$0")/.."
GLSLC=${GLSLC:-glslc}
version=$($GLSLC --version | tr '\n' ' ' | sed 's/  */ /g; s/ $//')
for src in *.comp; do
    head -n 1 "$src" | grep -q 'needs: coopmat' || continue
    libs=$(sed -n 's/^#include "\(.*\)"$/lib\/\1/p' "$src")
    sha=$(cat "$src" $libs | sha256sum | cut -d ' ' -f 1)
    for v in $(head -n 1 "$src" | sed 's/.*types: *//; s/ *needs:.*//'); do
        name=${src%.comp}_$v
        def=-DT_$(echo "$v" | tr 'a-z' 'A-Z')
        if [ -n "$SPIRV_VAL" ]; then
            $GLSLC -O --target-env=vulkan1.2 "$def" -I lib "$src" -o prebuilt/check.spv
            $SPIRV_VAL --target-env vulkan1.2 prebuilt/check.spv
            rm prebuilt/check.spv
        fi
        $GLSLC -O --target-env=vulkan1.2 "$def" -I lib -mfmt=c "$src" -o prebuilt/words.tmp
        { echo "/* $sha $version */"; cat prebuilt/words.tmp; } > "prebuilt/$name.inc"
        rm prebuilt/words.tmp
        echo "$name"
    done
done
