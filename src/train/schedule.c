/* schedule.c: the learning rate, and the loss scale of f16. A learning rate depends on the step's
 * number alone, so a resumed run has the one it would have had. SPDX-License-Identifier: MIT */
#include "train/train.h"
#include <math.h>

static double falling(const lr_schedule *s, int64_t step) {
    static const double pi = 3.14159265358979323846;
    double from = (double)s->warmup, all = (double)s->steps, at = (double)step;
    switch (s->kind) {
    case LR_CONSTANT:
        return 1;
    case LR_COSINE:
        return 0.5 * (1 + cos(pi * MIN(1, MAX(0, at - from) / MAX(1, all - from))));
    case LR_LINEAR_TAIL:
        return MIN(1, MAX(0, all - at) / MAX(1, all * s->tail));
    case LR_KIND_COUNT:
        break;
    }
    return 1;
}

double lr_at(const lr_schedule *s, int64_t step) {
    double warm = s->warmup > 0 ? MIN(1, (double)(step + 1) / (double)s->warmup) : 1;
    return warm * (s->lr_end + (s->lr - s->lr_end) * falling(s, step));
}

static const float largest = 65536, smallest = 1;
static const int64_t patience = 1000; /* steps */

void loss_scaler_init(loss_scaler *s, dtype type) {
    *s = (loss_scaler){.scale = type == DT_F16 ? 1024 : 1, .good = type == DT_F16 ? 0 : -1};
}

void loss_scaler_update(loss_scaler *s, bool skipped) {
    if (s->good < 0) return;
    if (skipped)
        *s = (loss_scaler){MAX(s->scale / 2, smallest), 0};
    else if (++s->good >= patience)
        *s = (loss_scaler){MIN(s->scale * 2, largest), 0};
}
