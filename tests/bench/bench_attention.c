/* bench_attention.c: host_attention_fwd and _bwd alone: milliseconds and GFLOP/s, counted as
 * 4 Tq Tk D forward (two matmuls) and 10 Tq Tk D backward (five), D = heads * width, whatever
 * padding costs. The best of the runs within S seconds: a shared machine only ever adds time.
 * usage: bench_attention [--seconds S] [--threads N] [--isa base|avx2|avx512|avx512_bf16|amx] [--only TEXT]
 * SPDX-License-Identifier: MIT */
#include "host/attention_internal.h"
#include <stdio.h>
#include <stdlib.h>

typedef struct shape {
    const char *name;
    int batch;
    int64_t tq, tk;
    int heads;
    int64_t kw;
} shape;
static const shape shapes[] = {
    {"4096x4096 8x40", 1, 4096, 4096, 8, 40},       {"4096x77 8x40", 1, 4096, 77, 8, 40},
    {"1024x1024 8x80", 1, 1024, 1024, 8, 80},       {"256x256 8x160", 1, 256, 256, 8, 160},
    {"256x256 8x32 batch 32", 32, 256, 256, 8, 32}, {"4096x4096 10x64", 1, 4096, 4096, 10, 64},
    {"4096x4096 1x512", 1, 4096, 4096, 1, 512},
};
static const char *const isa_names[ISA_COUNT] = {"base", "avx2", "avx512", "avx512_bf16", "amx"};

typedef struct bench {
    host *h;
    host_isa isa;
    double seconds;
    int threads;
    const char *only;
} bench;

static void *filled(dtype t, int64_t n, double amplitude, uint64_t stream) {
    void *p = mem_alloc((size_t)n * dtype_bytes(t));
    if (!p) fprintf(stderr, "bench_attention: no memory\n"), exit(1);
    rng_key key = {{1, 2}, (uint32_t)stream};
    for (int64_t i = 0; i < n; i++)
        dtype_store(p, t, i, amplitude * rng_normal(key, 0, (uint64_t)i));
    return p;
}

static double best_ms(const bench *b, const shape *s, const host_attention_args *a, bool backward,
                      void *scratch) {
    double best = 1e9, begin = os_seconds();
    for (int run = 0; run < 3 || os_seconds() - begin < b->seconds; run++) {
        double t = os_seconds();
        for (int n = 0; n < s->batch; n++)
            (backward ? attention_bwd : attention_fwd)(b->h, b->isa, a, scratch);
        best = MIN(best, (os_seconds() - t) * 1e3);
    }
    return best;
}

static void bench_shape(const bench *b, const shape *s, dtype t) {
    int64_t d = s->heads * s->kw, nq = s->tq * d, nk = s->tk * d;
    host_attention_part part = {.k = filled(t, nk, 1, 1),
                                .v = filled(t, nk, 1, 2),
                                .t = s->tk,
                                .dk = filled(DT_F32, nk, 0, 0),
                                .dv = filled(DT_F32, nk, 0, 0)};
    host_attention_args a = {.type = t,
                             .heads = s->heads,
                             .tq = s->tq,
                             .kw = s->kw,
                             .scale = 1 / sqrtf((float)s->kw),
                             .q = filled(t, nq, 1, 3),
                             .ld_q = d,
                             .n_parts = 1,
                             .part = &part,
                             .weight = 1,
                             .y = filled(DT_F32, nq, 0, 0),
                             .lse = filled(DT_F32, s->heads * s->tq, 0, 0),
                             .dy = filled(DT_F32, nq, 1, 4),
                             .delta = filled(DT_F32, s->heads * s->tq, 0, 0),
                             .dq = filled(DT_F32, nq, 0, 0)};
    size_t bytes = MAX(attention_scratch(b->isa, host_threads(b->h), &a, false),
                       attention_scratch(b->isa, host_threads(b->h), &a, true));
    void *scratch = mem_alloc(bytes);
    if (!scratch) fprintf(stderr, "bench_attention: no memory\n"), exit(1);
    double flop = 4.0 * s->batch * (double)s->tq * (double)s->tk * (double)d;
    double fwd = best_ms(b, s, &a, false, scratch), bwd = best_ms(b, s, &a, true, scratch);
    printf(
        "%-22s %-4s  fwd %8.2f ms %7.1f GFLOP/s   bwd %8.2f ms %7.1f GFLOP/s   scratch %5.1f MiB\n",
        s->name, dtype_name(t), fwd, flop / fwd * 1e-6, bwd, 2.5 * flop / bwd * 1e-6,
        (double)bytes / 1048576);
    void *all[] = {(void *)part.k, (void *)part.v, part.dk,         part.dv, (void *)a.q, a.y,
                   a.lse,          (void *)a.dy,   (void *)a.delta, a.dq,    scratch};
    for (size_t i = 0; i < ARRAY_LEN(all); i++) mem_free(all[i]);
}

int main(int argc, char **argv) {
    bench b = {.isa = ISA_COUNT, .seconds = 1};
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--seconds")) b.seconds = atof(argv[i + 1]);
        if (!strcmp(argv[i], "--threads")) b.threads = atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--only")) b.only = argv[i + 1];
        if (!strcmp(argv[i], "--isa"))
            for (int k = 0; k < ISA_COUNT; k++)
                if (!strcmp(argv[i + 1], isa_names[k])) b.isa = (host_isa)k;
    }
    if (host_open(b.threads, &b.h) != OK) return fprintf(stderr, "%s\n", error_message()), 1;
    b.isa = MIN(b.isa, host_get_isa(b.h));
    printf("%s, %d threads, %s\n", host_get_caps(b.h)->name, host_threads(b.h), isa_names[b.isa]);
    for (size_t i = 0; i < ARRAY_LEN(shapes); i++) {
        if (b.only && !strstr(shapes[i].name, b.only)) continue;
        bench_shape(&b, &shapes[i], DT_BF16);
        bench_shape(&b, &shapes[i], DT_F32);
    }
    host_close(b.h);
    return 0;
}
