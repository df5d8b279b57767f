/* noising.c: see noising.h. Plain v-prediction, unweighted: min-SNR would take weight from high
 * noise, which for flat drawings decides most of the picture (base recipe of this project).
 * SPDX-License-Identifier: MIT */
#include "train/noising.h"
#include <math.h>

void noising_level(const double *abar, int64_t t, float level_x[2], float level_v[2]) {
    float alpha = (float)sqrt(abar[t]), sigma = (float)sqrt(1 - abar[t]);
    level_x[0] = alpha, level_x[1] = sigma;
    level_v[0] = -sigma, level_v[1] = alpha;
}

void noising_draw(const schedule_config *c, const double *abar, uint32_t seed, int64_t step,
                  double shift, int n, float *t, float (*level_x)[2], float (*level_v)[2]) {
    rng_key key = {{seed, 0}, rng_stream("timesteps")};
    double offset = rng_uniform(key, (uint64_t)step, 0);
    for (int i = 0; i < n; i++) {
        double u = fmod((double)i / n + offset, 1.0), v = shift * u / (1 + (shift - 1) * u);
        int64_t at = MIN((int64_t)(v * c->num_train_timesteps), c->num_train_timesteps - 1);
        t[i] = (float)at;
        noising_level(abar, at, level_x[i], level_v[i]);
    }
}
