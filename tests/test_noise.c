/* test_noise.c: our draws against torch's. Golden: tests/golden/make_noise.py. CUDA's vectors are
 * those that Stable Diffusion programs publish for their "NV" source (seeds 0 and 42; first values
 * of torch.randn on a CUDA device). usage: test_noise GOLDEN SPDX-License-Identifier: MIT */
#include "file/file.h"
#include "sampler/noise.h"
#include "test.h"
#include <math.h>

#define MOST 16384
static const char *const type_names[] = {"f32", "f16", "bf16"};
static const dtype types[] = {DT_F32, DT_F16, DT_BF16};

/* f32: within 2e-6. Half types: a rounding of libm's may fall to the other side: at most one unit,
 * and rarely. */
typedef struct tally {
    double worst;
    int64_t n, off;
} tally;
static tally g_tally[3];

static const safetensor *gold(const safetensors *f, const char *name) {
    const safetensor *t = safetensors_find(f, name);
    if (!t) printf("%s is missing from the golden\n", name);
    REQUIRE(t);
    return t;
}

static void compare(int type, const char *what, int64_t i, double got, double want) {
    double gap = fabs(got - want),
           unit = types[type] == DT_F32 ? 2e-6
                                        : 4 * dtype_epsilon(types[type]) * fmax(fabs(want), 1e-3);
    g_tally[type].n++;
    g_tally[type].off += gap > 0;
    g_tally[type].worst = fmax(g_tally[type].worst, gap);
    if (!(gap <= unit)) {
        printf("FAIL %s[%lld]: %.9g, torch has %.9g\n", what, (long long)i, got, want);
        exit(1);
    }
}

static void check_sizes(const safetensors *f, int type) {
    static const uint64_t seeds[] = {0, 42, (1ull << 32) + 7, (1ull << 63) - 25};
    static const int sizes[] = {3, 15, 16, 17, 100, MOST};
    static float v[MOST];
    for (size_t s = 0; s < ARRAY_LEN(seeds); s++) {
        for (size_t k = 0; k < ARRAY_LEN(sizes); k++) {
            char name[64];
            noise_gen g;
            snprintf(name, sizeof name, "normal/%s/%llu/%d", type_names[type],
                     (unsigned long long)seeds[s], sizes[k]);
            const safetensor *t = gold(f, name);
            noise_init(&g, NOISE_CPU, types[type], seeds[s]);
            noise_normal(&g, v, sizes[k]);
            int64_t at = 0;
            if (sizes[k] == MOST) {
                for (int i = 0; i < 40; i++, at++)
                    compare(type, name, i, v[i], safetensor_load(t, at));
                for (int i = MOST - 40; i < MOST; i++, at++)
                    compare(type, name, i, v[i], safetensor_load(t, at));
                for (int i = 0; i < MOST; i += 61, at++)
                    compare(type, name, i, v[i], safetensor_load(t, at));
            } else {
                for (; at < sizes[k]; at++) compare(type, name, at, v[at], safetensor_load(t, at));
            }
            REQUIRE_EQ(at, safetensor_count(t));
        }
    }
}

static void check_calls(const safetensors *f, int type) {
    static const int calls[] = {3, 16, 5, 17, 100, 2, 16};
    char name[64];
    static float v[605];
    int64_t at = 0;
    noise_gen g;
    snprintf(name, sizeof name, "calls/%s", type_names[type]);
    const safetensor *t = gold(f, name);
    noise_init(&g, NOISE_CPU, types[type], 5);
    for (size_t k = 0; k < ARRAY_LEN(calls); k++) {
        noise_normal(&g, v, calls[k]);
        for (int i = 0; i < calls[k]; i++, at++)
            compare(type, name, at, v[i], safetensor_load(t, at));
    }
    REQUIRE_EQ(at, safetensor_count(t));
    snprintf(name, sizeof name, "uniform/%s", type_names[type]);
    t = gold(f, name);
    noise_init(&g, NOISE_CPU, types[type], 9);
    noise_uniform(&g, v, 5);
    noise_uniform(&g, v + 5, 600);
    for (int i = 0; i < 605; i++) { /* no libm: to the bit */
        if ((double)v[i] != safetensor_load(t, i))
            printf("%s[%d]: %.9g, torch has %.9g\n", name, i, v[i], safetensor_load(t, i));
        REQUIRE((double)v[i] == safetensor_load(t, i));
    }
}

static void check_integers(const safetensors *f) {
    static const uint32_t limits[] = {2, 1000, (1u << 28) - 1, 1u << 28, 4294967291u};
    for (size_t k = 0; k < ARRAY_LEN(limits); k++) {
        char name[64];
        noise_gen g;
        snprintf(name, sizeof name, "below/%u", limits[k]);
        const safetensor *t = gold(f, name);
        noise_init(&g, NOISE_CPU, DT_F32, 0);
        for (int i = 0; i < 12; i++) REQUIRE_EQ(noise_below(&g, limits[k]), safetensor_load(t, i));
    }
}

static void check_mixed(const safetensors *f) {
    const safetensor *t = gold(f, "mixed"), *shape = gold(f, "shape");
    static float v[256];
    noise_gen g;
    noise_init(&g, NOISE_CPU, DT_F32, 3);
    noise_normal(&g, v, 3);
    noise_uniform(&g, v + 3, 2);
    v[5] = (float)noise_below(&g, 1000);
    noise_normal(&g, v + 6, 4);
    for (int i = 0; i < 10; i++) compare(0, "mixed", i, v[i], safetensor_load(t, i));
    noise_init(&g, NOISE_CPU, DT_F32, 42);
    noise_normal(&g, v, 256);
    for (int i = 0; i < 256; i++) compare(0, "shape", i, v[i], safetensor_load(shape, i));
}

static void check_philox(void) {
    static const float zero[] = {-0.924663f, -0.425344f, -2.643846f, 0.145184f, -0.120867f};
    static const float answer[] = {0.194019f, 2.161374f, -0.172051f, 0.849060f, -1.924399f};
    float v[2000], again[2000], half[5];
    noise_gen g;
    noise_init(&g, NOISE_PHILOX, DT_F32, 0);
    noise_normal(&g, v, 5);
    for (int i = 0; i < 5; i++) REQUIRE(fabsf(v[i] - zero[i]) < 2e-6f);
    noise_init(&g, NOISE_PHILOX, DT_F32, 42);
    noise_normal(&g, v, 2000);
    for (int i = 0; i < 5; i++) REQUIRE(fabsf(v[i] - answer[i]) < 2e-6f);
    noise_normal(&g, again, 2000); /* a second call goes on */
    double dot = 0, sum = 0, square = 0;
    for (int i = 0; i < 2000; i++) {
        dot += (double)v[i] * (double)again[i];
        sum += (double)again[i];
        square += (double)again[i] * (double)again[i];
    }
    REQUIRE(fabs(dot / 2000) < 0.1 && fabs(sum / 2000) < 0.1 && fabs(square / 2000 - 1) < 0.15);
    noise_init(&g, NOISE_PHILOX, DT_F16, 42); /* f16: the same number, rounded */
    noise_normal(&g, half, 5);
    for (int i = 0; i < 5; i++) REQUIRE(half[i] == f16_to_f32(f32_to_f16(v[i])));
    noise_init(&g, NOISE_PHILOX, DT_F32,
               (1ull << 32) + 42); /* unlike the CPU's, the high half of the seed counts */
    noise_normal(&g, again, 5);
    REQUIRE(again[0] != v[0]);
    noise_uniform(&g, again, 2000);
    for (int i = 0; i < 2000; i++) REQUIRE(again[i] >= 0 && again[i] < 1);
    for (int i = 0; i < 100; i++) REQUIRE(noise_below(&g, 7) < 7);
}

int main(int argc, char **argv) {
    safetensors *f = NULL;
    if (argc < 2) return printf("usage: test_noise GOLDEN\n"), 2;
    REQUIRE_OK(safetensors_open(argv[1], &f));
    for (int type = 0; type < 3; type++) {
        check_sizes(f, type);
        check_calls(f, type);
    }
    check_integers(f);
    check_mixed(f);
    check_philox();
    for (int type = 0; type < 3; type++) {
        printf("%s: %lld values, %lld differ, worst %.2e\n", type_names[type],
               (long long)g_tally[type].n, (long long)g_tally[type].off, g_tally[type].worst);
        if (type) REQUIRE(g_tally[type].off * 200 <= g_tally[type].n);
    }
    safetensors_close(f);
    REQUIRE_EQ(mem_live(), 0);
    return 0;
}
