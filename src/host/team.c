/* team.c: opening the CPU, what it can do, and the thread team.
 *
 * The team is OpenMP's: oneDNN uses the same one, so there is one set of threads and no fight over
 * cores. How idle threads wait is the user's choice from outside: with the default (libgomp spins a
 * while) a machine busy with other work runs better under OMP_WAIT_POLICY=passive.
 * SPDX-License-Identifier: MIT */
#include "host/onednn.h"

#include <omp.h>
#include <stdio.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* The bits of dnnl_cpu_isa_t nest, so "at least this level" is a mask. The bits of AMX differ
 * between versions 2 and 3 of oneDNN: only the names are used. */
static bool has_level(unsigned have, unsigned level) { return (have & level) == level; }

static host_isa effective_isa(host_caps *c) {
#if defined(__x86_64__)
    unsigned have = (unsigned)dnnl_get_effective_cpu_isa();
    bool avx2 = has_level(have, dnnl_cpu_isa_avx2) && __builtin_cpu_supports("avx2") &&
                __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                __builtin_cpu_supports("bmi2");
    bool avx512 = avx2 && has_level(have, dnnl_cpu_isa_avx512_core);
    c->fast_bf16 = avx512 && has_level(have, dnnl_cpu_isa_avx512_core_bf16) &&
                   __builtin_cpu_supports("avx512bf16");
    c->amx = c->fast_bf16 && has_level(have, dnnl_cpu_isa_avx512_core_amx);
    return c->amx         ? ISA_AMX
           : c->fast_bf16 ? ISA_AVX512_BF16
           : avx512       ? ISA_AVX512
           : avx2         ? ISA_AVX2
                          : ISA_BASE;
#else
    c->fast_bf16 = c->amx = false;
    return ISA_BASE;
#endif
}

static void cpu_name(char *out, size_t bytes) {
#if defined(__x86_64__)
    uint32_t r[12] = {0}, most = __get_cpuid_max(0x80000000u, NULL);
    if (most >= 0x80000004u) {
        for (uint32_t i = 0; i < 3; i++)
            __get_cpuid(0x80000002u + i, &r[4 * i], &r[4 * i + 1], &r[4 * i + 2], &r[4 * i + 3]);
        char brand[sizeof r + 1] = {0};
        memcpy(brand, r, sizeof r);
        const char *s = brand;
        while (*s == ' ') s++;
        snprintf(out, bytes, "%s", s);
        return;
    }
    snprintf(out, bytes, "x86-64");
#elif defined(__aarch64__)
    snprintf(out, bytes, "arm64");
#else
    snprintf(out, bytes, "cpu");
#endif
}

status host_open(int threads, host **out) {
    status st = OK;
    host *h = NULL;
    *out = NULL;
    if (threads < 0 || threads > 4096)
        return fail(E_USAGE, "host: %d threads; give 0 (all cores) to 4096", threads);
    h = mem_zalloc(sizeof *h);
    if (!h) return fail(E_HOST_MEMORY, "host: no memory to open the CPU device");
    h->caps.threads = threads ? threads : MAX(1, os_cpu_count());
    h->caps.isa = effective_isa(&h->caps);
    cpu_name(h->caps.name, sizeof h->caps.name);
    const dnnl_version_t *v = dnnl_version();
    snprintf(h->caps.onednn, sizeof h->caps.onednn, "%d.%d.%d", v->major, v->minor, v->patch);
    if (v->major != DNNL_VERSION_MAJOR) {
        st = fail(E_UNSUPPORTED,
                  "host: built for oneDNN %d, but %s was loaded: rebuild, or point "
                  "the loader to the right libdnnl",
                  DNNL_VERSION_MAJOR, h->caps.onednn);
        goto out;
    }
    h->caps.memory_bytes = os_memory_total_bytes();
    h->caps.memory_free_bytes = os_memory_available_bytes();
    DN(dnnl_engine_create(&h->engine, dnnl_cpu, 0));
    DN(dnnl_stream_create(&h->stream, h->engine, dnnl_stream_default_flags));
    *out = h;
    h = NULL;
out:
    host_close(h);
    return st;
}

void host_close(host *h) {
    if (!h) return;
    if (h->stream) dnnl_stream_destroy(h->stream);
    if (h->engine) dnnl_engine_destroy(h->engine);
    mem_free(h);
}

const host_caps *host_get_caps(const host *h) { return &h->caps; }
host_isa host_get_isa(const host *h) { return h->caps.isa; }
int host_threads(const host *h) { return h->caps.threads; }
bool host_failed(host *h) { return atomic_exchange(&h->failed, false); }

void host_parallel(host *h, int64_t n, int64_t grain,
                   void (*body)(void *ctx, int64_t begin, int64_t end), void *ctx) {
    if (n <= 0) return;
    int64_t pieces = MIN((int64_t)h->caps.threads, n / MAX(grain, 1));
    if (pieces <= 1 || omp_in_parallel()) {
        body(ctx, 0, n);
        return;
    }
    /* Pieces depend on n, grain and caps.threads only; the runtime may lend fewer threads. */
    int64_t part = n / pieces, rest = n % pieces;
#pragma omp parallel num_threads((int)pieces)
    for (int64_t i = omp_get_thread_num(); i < pieces; i += omp_get_num_threads())
        body(ctx, i * part + MIN(i, rest), (i + 1) * part + MIN(i + 1, rest));
}
