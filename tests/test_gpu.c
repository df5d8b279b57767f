/* test_gpu.c: the Vulkan room on any device, a software driver included: memory, the SPIR-V
 * reader, dispatches and their refusal, barriers, cutting, cancelling, the files of the cache
 * directory, running out of memory, the fault ring, and all of it under the validation layer
 * where that is installed.
 *   test_gpu [index]     exit 77: no Vulkan device
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"
#include "test.h"
#include <unistd.h>

static uint32_t lcg(uint32_t *s) { return *s = *s * 1664525u + 1013904223u; }

/* Makes the host forget that it sees the memory, so that the staged path runs on drivers where
 * it does. */
static gpu_span hide(gpu_span s) {
    s.chunk->mapped = NULL;
    return s;
}

static void test_copies(gpu *d, bool staged) {
    static const uint64_t sizes[] = {1, 2, 3, 4, 63, 64, 65, 4097, (17 << 20) + 3, (5 << 20) + 1};
    enum { N = ARRAY_LEN(sizes) };
    gpu_span s[N];
    uint8_t *data[N], *back = mem_alloc(sizes[8]);
    uint32_t seed = 1;
    for (int i = 0; i < N; i++) {
        REQUIRE_OK(gpu_alloc(d, i % 2 ? GPU_STATE : GPU_WEIGHTS, sizes[i], &s[i]));
        if (staged) hide(s[i]);
        REQUIRE_EQ(s[i].offset % 64, 0);
        data[i] = mem_alloc(sizes[i]);
        for (uint64_t k = 0; k < sizes[i]; k++) data[i][k] = (uint8_t)(lcg(&seed) >> 24);
        REQUIRE_OK(gpu_upload(d, s[i], data[i], sizes[i]));
    }
    for (int i = 0; i < N; i++) {
        memset(back, 0, sizes[i]);
        REQUIRE_OK(gpu_download(d, s[i], back, sizes[i]));
        REQUIRE(memcmp(back, data[i], sizes[i]) == 0);
    }
    for (int i = 0; i < N; i += 2) REQUIRE_OK(gpu_fill(d, s[i], 0x04030201u));
    for (int i = 0; i < N; i++) {
        REQUIRE_OK(gpu_download(d, s[i], back, sizes[i]));
        if (i % 2)
            REQUIRE(memcmp(back, data[i], sizes[i]) ==
                    0); /* filling a neighbour did not reach it */
        for (uint64_t k = 0; i % 2 == 0 && k < sizes[i]; k++) REQUIRE_EQ(back[k], k % 4 + 1);
    }
    REQUIRE(gpu_upload(d, s[0], data[9], sizes[9]) == E_SHAPE);
    error_clear();
    for (int i = 0; i < N; i++) {
        gpu_free(d, s[i]);
        mem_free(data[i]);
    }
    gpu_free(d, (gpu_span){0});
    mem_free(back);
}

static void test_free_list(gpu *d) {
    enum { N = 200 };
    gpu_span s[N] = {0};
    uint32_t seed = 7;
    for (int round = 0; round < 3000; round++) {
        int i = (int)(lcg(&seed) >> 8) % N;
        if (s[i].chunk) {
            gpu_free(d, s[i]);
            s[i] = (gpu_span){0};
            continue;
        }
        uint64_t bytes = 1 + (lcg(&seed) >> 8) % (round % 10 ? 5000 : 900000);
        REQUIRE_OK(gpu_alloc(d, GPU_STATE, bytes, &s[i]));
        for (int k = 0; k < N; k++)
            REQUIRE(k == i || s[k].chunk != s[i].chunk || s[k].offset + s[k].bytes <= s[i].offset ||
                    s[i].offset + s[i].bytes <= s[k].offset);
    }
    for (int i = 0; i < N; i++) gpu_free(d, s[i]);
    for (const gpu_chunk *c = d->chunks[GPU_STATE]; c; c = c->next) {
        REQUIRE_EQ(c->n_spans, 0);
        REQUIRE_EQ(c->n_free, 1);
        REQUIRE_EQ(c->free[0].bytes, c->bytes);
    }
    REQUIRE(gpu_region_bytes(d, GPU_STATE) <= 16 << 20);
}

static const gpu_spirv *shader(const char *name) {
    for (int i = 0; i < gpu_spirv_count; i++)
        if (strcmp(gpu_spirv_table[i].name, name) == 0) return &gpu_spirv_table[i];
    return NULL;
}

static void test_spirv(void) {
    spirv_info f;
    for (int i = 0; i < gpu_spirv_count; i++) {
        const gpu_spirv *s = &gpu_spirv_table[i];
        REQUIRE_OK(gpu_spirv_read(s->name, s->words, s->n_words, &f));
        REQUIRE(f.used && f.writes && f.push_bytes <= 128 && f.local[0].value >= 1);
        REQUIRE((f.used & ~(f.reads | f.writes)) == 0);
    }
    const gpu_spirv *s = shader("test_axpy_h16");
    REQUIRE(s && gpu_has_shader("test_axpy_f32") && !gpu_has_shader("test_axpy"));
    REQUIRE_OK(gpu_spirv_read(s->name, s->words, s->n_words, &f));
    REQUIRE_EQ(f.n_bind, 2);
    REQUIRE_EQ(f.reads, 3);
    REQUIRE_EQ(f.writes, 2);
    REQUIRE_EQ(f.push_bytes, 8);
    REQUIRE_EQ(f.local[0].spec, 1);
    REQUIRE_EQ(f.local[1].spec, -1);
    REQUIRE_EQ(f.local[1].value, 1);
    REQUIRE(f.spec_ids == 3 && f.abilities & ABLE_STORAGE16);
    /* Damaged words: any status, no crash, no read outside (seen by the sanitizers). */
    uint32_t *w = mem_alloc(s->n_words * 4), seed = 3;
    for (int i = 0; i < 20000; i++) {
        memcpy(w, s->words, s->n_words * 4);
        size_t n = i % 3 ? s->n_words : lcg(&seed) % s->n_words;
        for (int k = 0; k < 3; k++)
            w[(lcg(&seed) >> 8) % s->n_words] ^= k ? 1u << (lcg(&seed) >> 27) : lcg(&seed);
        if (gpu_spirv_read("damaged", w, n, &f) != OK) error_clear();
    }
    mem_free(w);
}

typedef struct axpy_push {
    uint32_t n;
    float a;
} axpy_push;
#define AXPY(x_, y_, push_, ...)                                                                   \
    .shader = "test_axpy", .bind = {x_, y_}, .n_bind = 2, .push = &(push_),                        \
    .push_bytes = sizeof(push_), ##__VA_ARGS__

static void test_dispatch(gpu *d, dtype t, uint32_t n, uint32_t local) {
    size_t bytes = n * dtype_bytes(t);
    uint8_t *x = mem_alloc(bytes), *y = mem_alloc(bytes);
    gpu_span sx, sy;
    gpu_cmd *c;
    for (uint32_t i = 0; i < n; i++) {
        dtype_store(x, t, i, i % 61);
        dtype_store(y, t, i, i % 7);
    }
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, bytes, &sx));
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, bytes, &sy));
    REQUIRE_OK(gpu_upload(d, sx, x, bytes));
    REQUIRE_OK(gpu_upload(d, sy, y, bytes));
    REQUIRE_OK(gpu_cmd_create(d, &c));
    gpu_dispatch_params p = {
        AXPY(sx, sy, ((axpy_push){n, 2}), .type = t, .spec = {local}, .n_spec = 1)};
    gpu_groups_1d(n, local, p.groups);
    REQUIRE_OK(gpu_dispatch_(c, &p));
    REQUIRE_OK(gpu_cmd_end(c));
    REQUIRE_EQ(gpu_cmd_count(c), 1);
    for (int run = 1; run <= 2; run++) {
        REQUIRE_OK(gpu_cmd_run(c, NULL, NULL));
        REQUIRE_OK(gpu_download(d, sy, y, bytes));
        for (uint32_t i = 0; i < n; i++)
            if (dtype_load(y, t, i) != run * 2 * (i % 61) + i % 7)
                REQUIRE_EQ(dtype_load(y, t, i), -1);
    }
    gpu_cmd_destroy(c);
    gpu_free(d, sx);
    gpu_free(d, sy);
    mem_free(x);
    mem_free(y);
}

/* b += a; a += b; copies and dispatches alternate: Fibonacci numbers, wrong with any barrier
 * missing. */
static void test_barriers(gpu *d) {
    enum { N = 5000 };
    float ones[N], out[N];
    for (int i = 0; i < N; i++) ones[i] = 1;
    gpu_span a, b, e;
    gpu_cmd *c;
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, sizeof ones, &a));
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, sizeof ones, &b));
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, sizeof ones, &e));
    REQUIRE_OK(gpu_upload(d, a, ones, sizeof ones));
    REQUIRE_OK(gpu_cmd_create(d, &c));
    REQUIRE_OK(gpu_copy(c, b, a, sizeof ones));
    axpy_push push = {N, 1};
    uint32_t g[3];
    gpu_groups_1d(N, 64, g);
    for (int i = 0; i < 10; i++) {
        REQUIRE_OK(gpu_copy(c, e, b, sizeof ones)); /* write after read, read after write */
        REQUIRE_OK(gpu_dispatch(
            c, AXPY(a, b, push, .spec = {64}, .n_spec = 1, .groups = {g[0], g[1], g[2]})));
        REQUIRE_OK(gpu_copy(c, a, e, sizeof ones));
    }
    REQUIRE_OK(gpu_cmd_end(c));
    REQUIRE_OK(gpu_cmd_run(c, NULL, NULL));
    REQUIRE_OK(gpu_download(d, b, out, sizeof out));
    for (int i = 0; i < N; i++) REQUIRE_EQ(out[i], 144);
    gpu_cmd_destroy(c);
    gpu_free(d, a);
    gpu_free(d, b);
    gpu_free(d, e);
}

static void test_refusals(gpu *d) {
    const gpu_caps *k = gpu_get_caps(d);
    gpu_span s, t;
    gpu_cmd *c;
    axpy_push push = {64, 1};
    struct {
        uint32_t n;
    } small = {64};
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, 256, &s));
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, 256, &t));
    REQUIRE_OK(gpu_cmd_create(d, &c));
    gpu_dispatch_params good = {AXPY(s, t, push, .spec = {64}, .n_spec = 1)}, bad[10];
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) bad[i] = good;
    bad[0].shader = "no_such_shader";
    bad[1].n_bind = 1;
    bad[2].push = &small;
    bad[2].push_bytes = sizeof small;
    bad[3].type = DT_F64;
    bad[4].type = DT_U32; /* there is no variant without a type */
    bad[5].bind[1] = (gpu_span){0};
    bad[6].bind[0].offset += 2;
    bad[7].groups[2] = k->max_group_count[2] == UINT32_MAX ? 1 : k->max_group_count[2] + 1;
    if (bad[7].groups[2] == 1) bad[7].n_bind = -1;
    bad[8].spec[0] = 1u << 24;
    bad[9].bind[1].bytes = s.chunk->bytes + 4;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (gpu_dispatch_(c, &bad[i]) != E_UNSUPPORTED)
            printf("bad[%d] was not refused\n", (int)i), exit(1);
        REQUIRE(strstr(error_message(), bad[i].shader));
        error_clear();
    }
    REQUIRE(gpu_copy(c, s, t, 1000) == E_UNSUPPORTED);
    REQUIRE(gpu_copy(c, s, s, 4) == E_UNSUPPORTED);
    REQUIRE(gpu_cmd_run(c, NULL, NULL) == E_UNSUPPORTED); /* not ended */
    error_clear();
    REQUIRE_OK(gpu_dispatch_(c, &good));
    REQUIRE_OK(gpu_cmd_end(c));
    REQUIRE_OK(gpu_cmd_run(c, NULL, NULL));
    REQUIRE(gpu_dispatch_(c, &good) == E_UNSUPPORTED);
    error_clear();
    gpu_cmd_destroy(c);
    gpu_free(d, s);
    gpu_free(d, t);
}

static bool cancel_third(void *ctx) { return ++*(int *)ctx == 3; }
static bool never(void *ctx) { return ++*(int *)ctx < 0; }

static void test_cutting(gpu *d) {
    enum { N = 6 };
    gpu_span s, t;
    gpu_cmd *c;
    float zero[64] = {0}, one[64], out[64];
    for (int i = 0; i < 64; i++) one[i] = 1;
    axpy_push push = {64, 1};
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, sizeof one, &s));
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, sizeof one, &t));
    REQUIRE_OK(gpu_upload(d, s, one, sizeof one));
    REQUIRE_OK(gpu_cmd_create(d, &c));
    for (int i = 0; i < N; i++) {
        REQUIRE_OK(gpu_cmd_mark(c, "axpy", (uint32_t)i));
        REQUIRE_OK(gpu_dispatch(c, AXPY(s, t, push, .spec = {64}, .n_spec = 1, .work = 1e13)));
    }
    REQUIRE_OK(gpu_cmd_end(c));
    REQUIRE_EQ(gpu_cmd_count(c), N);
    int asked = 0;
    REQUIRE_OK(gpu_upload(d, t, zero, sizeof zero));
    REQUIRE(gpu_cmd_run(c, cancel_third, &asked) == E_CANCELLED);
    REQUIRE_OK(gpu_download(d, t, out, sizeof out));
    REQUIRE_EQ(out[5], 2);
    REQUIRE_OK(gpu_upload(d, t, zero, sizeof zero));
    asked = 0;
    REQUIRE_OK(gpu_cmd_run(c, never, &asked));
    REQUIRE_EQ(asked, N);
    REQUIRE_OK(gpu_download(d, t, out, sizeof out));
    REQUIRE_EQ(out[63], N);
    double ms[N] = {0};
    if (gpu_get_caps(d)->timestamps) {
        REQUIRE_OK(gpu_cmd_times(c, N, ms));
        for (int i = 0; i < N; i++) REQUIRE(ms[i] >= 0 && ms[i] < 10e3);
    }
    REQUIRE(gpu_cmd_times(c, N + 1, ms) == E_UNSUPPORTED);
    error_clear();
    gpu_cmd_destroy(c);
    /* more marks than a query block, forced cuts, an empty list */
    REQUIRE_OK(gpu_cmd_create(d, &c));
    for (int i = 0; i < 600; i++) {
        REQUIRE_OK(gpu_cmd_mark(c, "axpy", (uint32_t)i));
        REQUIRE_OK(gpu_dispatch(c, AXPY(s, t, push, .spec = {64}, .n_spec = 1, .work = 1)));
        if (i % 200 == 199) REQUIRE_OK(gpu_cmd_cut(c));
    }
    REQUIRE_OK(gpu_cmd_end(c));
    REQUIRE_OK(gpu_cmd_run(c, NULL, NULL));
    REQUIRE(gpu_cmd_count(c) >= 3 && gpu_cmd_count(c) <= 4);
    double *all = mem_alloc(600 * sizeof *all);
    if (gpu_get_caps(d)->timestamps) REQUIRE_OK(gpu_cmd_times(c, 600, all));
    mem_free(all);
    gpu_cmd_destroy(c);
    REQUIRE_OK(gpu_cmd_create(d, &c));
    REQUIRE_OK(gpu_cmd_end(c));
    REQUIRE_OK(gpu_cmd_run(c, NULL, NULL));
    REQUIRE_EQ(gpu_cmd_count(c), 0);
    gpu_cmd_destroy(c);
    gpu_free(d, s);
    gpu_free(d, t);
}

static void test_groups(void) {
    static const uint64_t n[] = {0,         1, 255, 256, 257, 65535ull * 256, 65535ull * 256 + 1,
                                 1000000000};
    for (size_t i = 0; i < ARRAY_LEN(n); i++) {
        uint32_t g[3];
        gpu_groups_1d(n[i], 256, g);
        uint64_t cover = (uint64_t)g[0] * g[1] * 256;
        REQUIRE(cover >= n[i] && g[0] >= 1 && g[0] <= 65535 && g[1] >= 1 && g[2] == 1);
        REQUIRE(g[1] == 1 || cover - n[i] < 65535ull * 256);
    }
}

static void test_memory_short(gpu *d) {
    const gpu_caps *k = gpu_get_caps(d);
    gpu_span s, *all = mem_zalloc(4096 * sizeof *all);
    uint64_t most = MIN(k->max_buffer_range, k->max_allocation), sum = 0;
    REQUIRE(gpu_alloc(d, GPU_ACTIVATIONS, most + 1, &s) == E_GPU_MEMORY && !s.chunk);
    REQUIRE(strstr(error_message(), "MB"));
    int n = 0;
    status st = OK;
    while (n < 4096 && (st = gpu_alloc(d, GPU_ACTIVATIONS, most, &all[n])) == OK)
        sum += all[n++].bytes;
    if (st != E_GPU_MEMORY) printf("memory never ran short: %.1f GB\n", (double)sum / 1e9);
    REQUIRE(n == 4096 || st == E_GPU_MEMORY);
    error_clear();
    for (int i = 0; i < n; i++) gpu_free(d, all[i]);
    REQUIRE_OK(gpu_alloc(d, GPU_ACTIVATIONS, 1000, &s)); /* and there is room again */
    gpu_free(d, s);
    mem_free(all);
}

/* A reset of the GPU, to the rest of the program: a status at once, and a clean close. */
static void test_lost(gpu_instance *in, int index) {
    gpu *d;
    gpu_cmd *c;
    gpu_span s;
    float x[4] = {0};
    REQUIRE_OK(gpu_open(in, index, NULL, &d));
    REQUIRE_OK(gpu_alloc(d, GPU_STATE, sizeof x, &s));
    REQUIRE_OK(gpu_cmd_create(d, &c));
    REQUIRE_OK(gpu_copy(c, (gpu_span){s.chunk, 8, 8}, (gpu_span){s.chunk, 0, 8}, 8));
    REQUIRE_OK(gpu_cmd_end(c));
    d->lost = true;
    REQUIRE(gpu_cmd_run(c, NULL, NULL) == E_DEVICE_LOST);
    REQUIRE(gpu_upload(d, hide(s), x, sizeof x) == E_DEVICE_LOST);
    error_clear();
    gpu_cmd_destroy(c);
    gpu_free(d, s);
    gpu_close(d);
}

/* ---- the cache directory ---- */

static status use_once(gpu *d) {
    status st = OK;
    gpu_span s = {0};
    gpu_cmd *c = NULL;
    axpy_push push = {64, 1};
    float ones[64] = {1};
    TRY(gpu_alloc(d, GPU_ACTIVATIONS, sizeof ones, &s));
    TRY(gpu_upload(d, hide(s), ones, sizeof ones));
    TRY(gpu_cmd_create(d, &c));
    TRY(gpu_cmd_mark(c, "use", 0));
    TRY(gpu_dispatch(c, AXPY(s, s, push, .spec = {64}, .n_spec = 1)));
    TRY(gpu_cmd_end(c));
    TRY(gpu_cmd_run(c, NULL, NULL));
out:
    gpu_cmd_destroy(c);
    gpu_free(d, s);
    return st;
}

static void damage(const char *path, int how) {
    uint8_t *data;
    size_t n;
    REQUIRE_OK(file_read(path, 1 << 26, &data, &n));
    if (how == 0) data[n - 1] ^= 0x40;
    if (how == 1) n /= 2;
    if (how == 2) n = 0;
    if (how == 3) memset(data, 0xa5, n);
    if (how == 4) data[0] ^= 1;
    REQUIRE_OK(file_write_atomic(path, data, n));
    mem_free(data);
}

static void test_cache(gpu_instance *in, int index, const char *dir) {
    gpu *d;
    REQUIRE_OK(gpu_open(in, index, dir, &d));
    REQUIRE_EQ(d->cache_bytes, 0);
    REQUIRE_EQ(gpu_tune_get(d, "matmul_f32 4096x320x320 nt"), -1);
    gpu_tune_set(d, "matmul_f32 4096x320x320 nt", 3);
    gpu_tune_set(d, "conv 7", 1);
    gpu_tune_set(d, "conv 7", 2);
    gpu_tune_set(d, "no\nline", 2);
    REQUIRE_OK(use_once(d));
    char *cache = gpu_cache_path(d, "pipelines", "bin"),
         *tuning = gpu_cache_path(d, "tuning", "txt");
    gpu_close(d);
    REQUIRE(os_file_exists(cache) && os_file_exists(tuning));
    REQUIRE_OK(gpu_open(in, index, dir, &d));
    REQUIRE(d->cache_bytes > 0);
    REQUIRE_EQ(gpu_tune_get(d, "matmul_f32 4096x320x320 nt"), 3);
    REQUIRE_EQ(gpu_tune_get(d, "conv 7"), 2);
    REQUIRE_EQ(d->tune.n, 2);
    gpu_close(d);
    for (int how = 0; how < 5; how++) {
        damage(cache, how);
        damage(tuning, how);
        REQUIRE_OK(gpu_open(in, index, dir, &d));
        REQUIRE_EQ(d->cache_bytes, 0);
        REQUIRE(gpu_tune_get(d, "conv 7") == -1 || how == 0);
        gpu_tune_set(d, "matmul_f32 4096x320x320 nt", 3);
        gpu_tune_set(d, "conv 7", 2);
        REQUIRE_OK(use_once(d));
        gpu_close(d);
        REQUIRE_OK(gpu_open(in, index, dir, &d));
        REQUIRE(d->cache_bytes > 0);
        gpu_close(d);
    }
    unlink(cache);
    unlink(tuning);
    mem_free(cache);
    mem_free(tuning);
}

/* ---- every n-th allocation and file step fails once ---- */

static void test_faults(gpu_instance *in, int index, const char *dir) {
    int64_t live = mem_live(), n = 1, failed = 0;
    for (;; n++) {
        gpu *d = NULL;
        fault_arm(n);
        status st = gpu_open(in, index, dir, &d);
        if (st == OK) gpu_tune_set(d, "key", 1);
        if (st == OK) st = use_once(d);
        gpu_close(d);
        int64_t steps = fault_count();
        fault_arm(0);
        REQUIRE(st == OK || st == E_HOST_MEMORY || st == E_GPU_MEMORY);
        failed += st != OK;
        REQUIRE(st == OK || error_message()[0]);
        error_clear();
        REQUIRE_EQ(mem_live(), live);
        if (n > steps) break;
    }
    REQUIRE(failed >= 10);
    for (n = 1;; n++) {
        gpu_instance *again = NULL;
        fault_arm(n);
        status st = gpu_instance_open(&again, false);
        int64_t steps = fault_count();
        fault_arm(0);
        REQUIRE(st == OK || st == E_HOST_MEMORY);
        gpu_instance_close(again);
        error_clear();
        REQUIRE_EQ(mem_live(), live);
        if (n > steps) break;
    }
}

static int pick(const gpu_instance *in, int argc, char **argv) {
    int index = argc > 1 ? atoi(argv[1]) : -1;
    for (int i = 0; i < gpu_instance_count(in); i++) {
        const gpu_caps *c = gpu_instance_caps(in, i);
        printf("vulkan:%d %s, %s %s, %s%.1f of %.1f GB free, ranges %.1f MB, subgroups %u..%u\n", i,
               c->name, c->driver, c->driver_version, c->usable ? "" : c->why_not,
               (double)c->memory_free_bytes / 1e9, (double)c->memory_bytes / 1e9,
               (double)c->max_buffer_range / 1e6, c->subgroup_min, c->subgroup_max);
        if (index < 0 && c->usable) index = i;
    }
    return index;
}

static gpu_instance *open_validated(void) {
    gpu_instance *in = NULL;
    if (gpu_instance_open(&in, true) == OK) return in;
    printf("without validation: %s\n", error_message());
    error_clear();
    if (gpu_instance_open(&in, false) != OK) {
        printf("skipped: %s\n", error_message());
        exit(77);
    }
    return in;
}

int main(int argc, char **argv) {
    int64_t live = mem_live();
    test_groups();
    test_spirv();
    gpu_instance *in = open_validated();
    int index = pick(in, argc, argv);
    if (index < 0) {
        printf("skipped: no usable device\n");
        gpu_instance_close(in);
        return 77;
    }
    gpu *d;
    REQUIRE(gpu_open(in, gpu_instance_count(in), NULL, &d) == E_USAGE);
    REQUIRE(gpu_instance_caps(in, -1) == NULL);
    error_clear();
    REQUIRE_OK(gpu_open(in, index, NULL, &d));
    test_copies(d, false);
    test_copies(d, true);
    test_free_list(d);
    test_dispatch(d, DT_F32, 1, 64);
    test_dispatch(d, DT_F32, 100003, 64);
    test_dispatch(d, DT_F32, 200001, 1); /* more than 65,535 workgroups */
    test_dispatch(d, DT_F16, 5001, 128);
    test_dispatch(d, DT_BF16, 777, 32);
    test_barriers(d);
    test_refusals(d);
    test_cutting(d);
    test_memory_short(d);
    gpu_close(d);
    test_lost(in, index);
    char dir[] = "/tmp/imago-test-gpu-XXXXXX";
    REQUIRE(mkdtemp(dir));
    test_cache(in, index, dir);
    test_faults(in, index, dir);
    char cmd[256];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    REQUIRE_EQ(system(cmd), 0);
    REQUIRE_EQ(gpu_validation_errors(in), 0);
    gpu_instance_close(in);
    REQUIRE_EQ(mem_live(), live);
    printf("ok\n");
    return 0;
}
