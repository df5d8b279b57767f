// types: none
// solve, inverse. FACTOR: a workgroup eliminates one matrix with partial pivoting, in place in `lu`;
// the order of rows follows the matrices. Columns below the diagonal keep l u_kk, which saves a pass:
//     P A = L' D^-1 U with D = diag(L') = diag(U), so L' w = P b, then x = w - D^-1 (U - D) x.
// else: an invocation solves one column. Sums run in fours: lavapipe (Mesa 22.3) ends an invocation's
// loops after 65,535 turns in all.
// SPDX-License-Identifier: MIT
#version 460
#extension GL_GOOGLE_include_directive : require
#include "io.glsl"
layout(local_size_x = 256) in;
layout(constant_id = 1) const bool FACTOR = true;
layout(constant_id = 2) const bool INVERSE = false; // B is the identity, binding 1 is not read
BUF_IN(0, float, a)
BUF_IN(1, float, b)
layout(set = 0, binding = 2, std430) coherent buffer buf_lu { float lu[]; };
BUF_INOUT(3, float, x)
layout(push_constant) uniform push { uint batch, n, m; };

shared float size[256];
shared uint row[256];

void sync() {
    memoryBarrierBuffer();
    barrier();
}

// Row of the largest element at or below the diagonal of column k.
uint pivot_row(uint la, uint k, uint t) {
    size[t] = k + t < n ? abs(lu[la + (k + t) * n + k]) : -1.0;
    row[t] = k + t;
    barrier();
    for (uint half_way = 128u; half_way > 0u; half_way >>= 1) {
        if (t < half_way && size[t + half_way] > size[t]) {
            size[t] = size[t + half_way];
            row[t] = row[t + half_way];
        }
        barrier();
    }
    return row[0];
}

void factor(uint at, uint t) {
    uint la = at * n * n, order = batch * n * n + at * n;
    for (uint i = t; i < n * n; i += 256u) lu[la + i] = a[la + i];
    if (t < n) lu[order + t] = float(t);
    sync();
    for (uint k = 0u; k < n; k++) {
        uint p = pivot_row(la, k, t);
        if (p != k && t < n) {
            float v = lu[la + k * n + t];
            lu[la + k * n + t] = lu[la + p * n + t];
            lu[la + p * n + t] = v;
            if (t == 0u) {
                v = lu[order + k];
                lu[order + k] = lu[order + p];
                lu[order + p] = v;
            }
        }
        sync();
        float pivot = lu[la + k * n + k];
        uint rows = n - k - 1u;
        for (uint e = t; e < rows * rows; e += 256u) {
            uint i = k + 1u + e / rows, j = k + 1u + e % rows;
            lu[la + i * n + j] -= lu[la + i * n + k] / pivot * lu[la + k * n + j];
        }
        sync();
    }
}

// sum over j in [from, to) of lu[i, j] x[j, column]
float dot_row(uint line, uint from, uint to, uint column) {
    float sum = 0.0;
    for (uint j = from; j < to; j += 4u) {
        uint last = to - 1u;
        uvec4 k = min(uvec4(j, j + 1u, j + 2u, j + 3u), uvec4(last)), e = column + k * m;
        vec4 l = vec4(lu[line + k.x], lu[line + k.y], lu[line + k.z], lu[line + k.w]);
        vec4 v = vec4(x[e.x], x[e.y], x[e.z], x[e.w]);
        sum += l.x * v.x;
        if (j + 1u < to) sum += l.y * v.y;
        if (j + 2u < to) sum += l.z * v.z;
        if (j + 3u < to) sum += l.w * v.w;
    }
    return sum;
}

void main() {
    if (FACTOR) {
        uint at = gl_WorkGroupID.y * 65535u + gl_WorkGroupID.x;
        if (at < batch) factor(at, gl_LocalInvocationID.x); // the same for the whole workgroup
        return;
    }
    uint e = index_1d();
    if (e >= batch * m) return;
    uint at = e / m, c = e - at * m, column = at * n * m + c;
    uint la = at * n * n, order = batch * n * n + at * n;
    for (uint i = 0u; i < n; i++) {
        uint from = uint(lu[order + i]);
        float right = INVERSE ? (from == c ? 1.0 : 0.0) : b[column + from * m];
        x[column + i * m] = (right - dot_row(la + i * n, 0u, i, column)) / lu[la + i * n + i];
    }
    for (uint i = n; i-- > 0u;)
        x[column + i * m] -= dot_row(la + i * n, i + 1u, n, column) / lu[la + i * n + i];
}
