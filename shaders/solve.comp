// types: none
// solve, inverse: a workgroup eliminates one matrix with partial pivoting, in place in global memory: a copy of
// A in `lu`, B turning into X in `x`. Every invocation finds the pivot itself: n reads, but no barriers.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool INVERSE = false; // B is the identity, binding 1 is not read
BUF_IN(0, float, a)
BUF_IN(1, float, b)
layout(set = 0, binding = 2, std430) coherent buffer buf_lu { float lu[]; };
layout(set = 0, binding = 3, std430) coherent buffer buf_x { float x[]; };
layout(push_constant) uniform push { uint batch, n, m; };

void sync() {
    memoryBarrierBuffer();
    barrier();
}

void swap_rows(uint la, uint lx, uint k, uint p, uint t) {
    for (uint j = t; j < n; j += 256u) {
        float v = lu[la + k * n + j];
        lu[la + k * n + j] = lu[la + p * n + j];
        lu[la + p * n + j] = v;
    }
    for (uint j = t; j < m; j += 256u) {
        float v = x[lx + k * m + j];
        x[lx + k * m + j] = x[lx + p * m + j];
        x[lx + p * m + j] = v;
    }
}

void main() {
    uint at = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x, t = gl_LocalInvocationID.x;
    if (at >= batch) return; // the whole workgroup
    uint la = at * n * n, lx = at * n * m;
    for (uint i = t; i < n * n; i += 256u) lu[la + i] = a[la + i];
    for (uint i = t; i < n * m; i += 256u) x[lx + i] = INVERSE ? (i / m == i % m ? 1.0 : 0.0) : b[lx + i];
    sync();
    for (uint k = 0u; k < n; k++) {
        uint p = k;
        float best = abs(lu[la + k * n + k]);
        for (uint i = k + 1u; i < n; i++) {
            float v = abs(lu[la + i * n + k]);
            if (v > best) {
                best = v;
                p = i;
            }
        }
        sync();
        if (p != k) swap_rows(la, lx, k, p, t);
        sync();
        float pivot = lu[la + k * n + k];
        uint rows = n - k - 1u, cols = rows + m; // column k itself stays: it is not read again below the diagonal
        for (uint e = t; e < rows * cols; e += 256u) {
            uint i = k + 1u + e / cols, j = e % cols;
            float f = lu[la + i * n + k] / pivot;
            if (j < rows) lu[la + i * n + k + 1u + j] -= f * lu[la + k * n + k + 1u + j];
            else x[lx + i * m + j - rows] -= f * x[lx + k * m + j - rows];
        }
        sync();
    }
    for (uint c = t; c < m; c += 256u) // columns of X are independent
        for (int k = int(n) - 1; k >= 0; k--) {
            float v = x[lx + uint(k) * m + c];
            for (uint i = uint(k) + 1u; i < n; i++) v -= lu[la + uint(k) * n + i] * x[lx + i * m + c];
            x[lx + uint(k) * m + c] = v / lu[la + uint(k) * n + uint(k)];
        }
}
