/* half.c: IEEE binary16 by integer arithmetic: the same bits on every machine, with or without
 * F16C. SPDX-License-Identifier: MIT */
#include "base/base.h"

uint16_t f32_to_f16(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    uint32_t sign = (u >> 16) & 0x8000u, mag = u & 0x7fffffffu;
    if (mag > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((mag >> 13) & 0x3ffu)); /* quiet NaN */
    if (mag >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (mag >= 0x38800000u) {              /* 2^-14: normal; exponent bias 127 -> 15 */
        uint32_t r = mag - (112u << 23);
        return (uint16_t)(sign | ((r + 0xfffu + ((r >> 13) & 1u)) >> 13));
    }
    if (mag <= 0x33000000u)
        return (uint16_t)sign; /* 2^-25 is the tie between 0 and the least subnormal */
    uint32_t exponent = mag >> 23, m = (mag & 0x7fffffu) | 0x800000u;
    uint32_t shift = 126u - exponent; /* value = m * 2^(exponent-150), unit 2^-24 */
    uint32_t q = m >> shift, rest = m & ((1u << shift) - 1u), half = 1u << (shift - 1u);
    return (uint16_t)(sign | (q + (rest > half || (rest == half && (q & 1u)))));
}

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3ffu, u;
    if (e == 31u)
        u = sign | 0x7f800000u | m << 13;
    else if (e)
        u = sign | (e + 112u) << 23 | m << 13;
    else {
        float f = (float)m * 0x1p-24f; /* exact: ten bits */
        memcpy(&u, &f, 4);
        u |= sign;
    }
    float f;
    memcpy(&f, &u, 4);
    return f;
}
