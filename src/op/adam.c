/* adam.c: see adam.h. The powers are taken in double, once a step.
 * SPDX-License-Identifier: MIT */
#include "op/adam.h"
#include <math.h>

adam_step adam_step_of(const float y[6], const float *factor) {
    double b1 = (double)y[1], b2 = (double)y[2], t = (double)y[5];
    return (adam_step){.factor = factor ? *factor : 1.0f,
                       .keep = 1.0f - y[0] * y[4],
                       .b2 = y[2],
                       .c1 = (float)(1 - b1),
                       .c2 = (float)(1 - b2),
                       .size = (float)((double)y[0] / (1 - pow(b1, t))),
                       .root = (float)(1 / sqrt(1 - pow(b2, t))),
                       .eps = y[3]};
}

HOST_KERNEL(update,
            (adam_step s, float *restrict p, const float *restrict g, float *restrict m,
             float *restrict v, int64_t n),
            (s, p, g, m, v, n)) {
    for (int64_t i = 0; i < n; i++) {
        float d = s.factor * g[i], a = m[i] + s.c1 * (d - m[i]), b = s.b2 * v[i] + s.c2 * d * d;
        m[i] = a;
        v[i] = b;
        p[i] = s.keep * p[i] - s.size * a / (sqrtf(b) * s.root + s.eps);
    }
}

void adam_update(host_isa isa, const adam_step *s, float *p, const float *g, float *m, float *v,
                 int64_t n) {
    update(isa, *s, p, g, m, v, n);
}
