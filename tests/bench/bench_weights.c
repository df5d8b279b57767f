/* bench_weights.c: how fast weight_read converts, on one thread, from memory.
 * usage: bench_weights [megabytes of f16, 1]
 * Small ones fit the caches and a time slice; large ones read memory.
 * SPDX-License-Identifier: MIT */
#include "file/weights.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv) {
    double megabytes = argc > 1 ? atof(argv[1]) : 1;
    static const char *const from[] = {"F16", "BF16", "F32", "Q8_0", "Q4_0"};
    int64_t n = (int64_t)(megabytes * 1e6 / 2) / 32 * 32;
    uint8_t *in = mem_zalloc((size_t)n * 4), *out = mem_zalloc((size_t)n * 4);
    if (!in || !out) return 1;
    for (int64_t i = 0; i < n * 4; i++)
        in[i] = (uint8_t)(i * 37 % 61); /* normal numbers in every type */
    for (size_t i = 0; i < ARRAY_LEN(from); i++)
        for (dtype to = DT_F32; to <= DT_BF16; to++) {
            weight w = {
                .name = "w", .type = from[i], .n_dims = 1, .dim = {n}, .count = n, .data = in};
            double best = 1e9;
            for (int round = 0; round < 50; round++) {
                double start = os_seconds();
                if (weight_read(&w, 0, n, to, out, NULL) != OK) return 1;
                best = MIN(best, os_seconds() - start);
            }
            printf("%-4s -> %-4s %6.2f G elements/s\n", from[i], dtype_name(to),
                   (double)n / best * 1e-9);
        }
    mem_free(out);
    mem_free(in);
    return 0;
}
