/* gemm.c: choice of tile and split for the Vulkan matmul core, and what matmul and conv2d share
 * around it.
 * SPDX-License-Identifier: MIT */
#include "op/gemm.h"
#include <math.h>
#include <stdio.h>

extern const op_info op_unary_bwd_info;

/* Tiles for GPUs: threads x, y, staged, rows and column quads per thread, depth. Register use per
 * thread is tm * tn4 * 4 sums; shared memory 2 * bk * (rows + 4 + cols) * 4 bytes. The order is
 * part of the tuning table kept on disk: append only. */
static const gemm_tile gpu_tiles[] = {
    {16, 16, 1, 8, 2, 8, 0},  /* 128 x 128 */
    {16, 16, 1, 4, 1, 16, 0}, /*  64 x  64, 256 threads */
    {16, 8, 1, 8, 2, 8, 0},   /*  64 x 128 */
    {8, 8, 1, 8, 2, 16, 0},   /*  64 x  64, 64 threads */
    {16, 4, 1, 4, 1, 16, 0},  /*  16 x  64: few rows */
    {0, 2, 2, 4, 4, 16, 16},  /* cooperative matrices (threads: 4 subgroups): 128 x 128 */
    {0, 2, 2, 4, 4, 32, 16},  {0, 2, 2, 2, 2, 32, 16}, /*  64 x  64 */
    {0, 2, 2, 4, 2, 32, 16},                           /* 128 x  64 */
    {4, 16, 1, 8, 1, 16, 0},  /* 128 x  16: few columns */
};
enum { TILE_PLAIN = 1 /* every Vulkan device can run it */, TILE_FEW_ROWS = 4, TILE_FEW_COLUMNS = 9 };
#define TUNE_REPEATS 4
#define TUNE_LEAST   1e8 /* smaller jobs last some microseconds with any tile: not worth timing */

gpu_span span_part(gpu_span s, uint64_t offset, uint64_t bytes) {
    return (gpu_span){s.chunk, s.offset + offset, bytes};
}

status gemm_plan_keep(node *n, const gemm_plan *p) {
    gemm_plan *keep = mem_alloc(sizeof *keep);
    if (!keep) return fail(E_HOST_MEMORY, "no host memory to prepare %s", n->op->name);
    *keep = *p;
    n->prepared = keep;
    n->unprepare = mem_free;
    return OK;
}

static double job_flops(const gemm_job *j) {
    return 2.0 * (double)j->m * (double)j->n * (double)j->k * (double)j->batch;
}

/* Candidate i for this device and job; false when it cannot run there. */
static bool candidate(const gpu_caps *c, const gemm_job *j, int i, gemm_tile *t) {
    *t = gpu_tiles[i];
    uint64_t rows = (uint64_t)tile_rows(t), cols = (uint64_t)tile_cols(t), bk = t->bk;
    if (!t->coopmat)
        return t->lx * t->ly <= c->max_workgroup_invocations &&
               2 * bk * (rows + 4 + cols) * 4 <= c->max_shared_bytes;
    char name[64];
    snprintf(name, sizeof name, "%s_h16", j->coopmat ? j->coopmat : "");
    if (!j->coopmat || j->type != DT_F16 || !c->coopmat_f16 || !j->form.a_vec || !j->form.b_vec ||
        j->n % 4 || !gpu_has_shader(name))
        return false;
    t->lx = 4 * c->subgroup_size;
    uint64_t halves = (rows + 8) * (bk + 8) + (cols + 8) * (bk + 8);
    return t->lx <= c->max_workgroup_invocations &&
           4 * halves + 4 * 16 * 16 * 4 <= c->max_shared_bytes;
}

/* On lavapipe (2 cores, 512 x 1024 x 512, 4 columns a lane): 64 rows 58 GFLOP/s, 0.35-1.0 s of
 * compilation; 32 rows 50, 0.2-0.6 s; 8 rows 20, 0.1-0.2 s, which is what counts in small products.
 */
static bool software_tile(const gpu_caps *c, const gemm_job *j, gemm_tile *out) {
    uint32_t lanes = c->subgroup_size;
    if (debug_get()->gpu_tiles) return false;
    if (c->kind != GPU_SOFTWARE || (lanes != 4 && lanes != 8 && lanes != 16)) return false;
    double flops = job_flops(j);
    uint32_t rows = flops < 1e7 || j->m <= 8 ? MAX(lanes, 8) : flops < 1e9 || j->m <= 32 ? 32 : 64;
    *out = (gemm_tile){lanes, 1, 0, rows, 1, 4, 0};
    return true;
}

/* By the device's clock where it has one: waiting for a fast GPU takes longer than the job. */
static status time_tile(gpu *d, const gemm_job *j, const gemm_tile *t, const gpu_span span[3],
                        double *best) {
    status st = OK;
    gpu_cmd *c = NULL;
    bool stamps = gpu_get_caps(d)->timestamps;
    double ms[TUNE_REPEATS];
    TRY(gpu_cmd_create(d, &c));
    for (int r = 0; r < TUNE_REPEATS; r++) {
        if (stamps) TRY(gpu_cmd_mark(c, j->name, (uint32_t)r));
        TRY(j->emit(c, j, t, span));
    }
    TRY(gpu_cmd_end(c));
    *best = INFINITY;
    for (int run = 0; run < 2; run++) { /* the first warms up */
        double start = os_seconds();
        TRY(gpu_cmd_run(c, NULL, NULL));
        if (run) *best = (os_seconds() - start) / TUNE_REPEATS;
    }
    if (stamps) {
        TRY(gpu_cmd_times(c, TUNE_REPEATS, ms));
        *best = ms[0] / 1e3;
        for (int r = 1; r < TUNE_REPEATS; r++) *best = MIN(*best, ms[r] / 1e3);
    }
out:
    gpu_cmd_destroy(c);
    return st;
}

static bool coopmat_applies(const gpu_caps *c, const gemm_job *j) {
    gemm_tile t;
    for (int i = 0; i < (int)ARRAY_LEN(gpu_tiles); i++)
        if (gpu_tiles[i].coopmat && candidate(c, j, i, &t)) return true;
    return false;
}

/* Each tile timed costs a compilation. Where cooperative matrices apply, one ordinary tile is timed
 * beside them, for devices where they are slow. */
static bool worth_timing(const gemm_job *j, bool coopmat, int i) {
    if (i == TILE_FEW_COLUMNS) return j->n <= 16;
    return gpu_tiles[i].coopmat || i == TILE_PLAIN || !coopmat;
}

static int size_class(int64_t x) {
    return x < 1 ? 0 : (int)lround(2 * log2((double)x));
} /* two classes an octave */

status gemm_choose(gpu *d, gemm_job *j, gemm_tile *out) {
    status st = OK;
    const gpu_caps *caps = gpu_get_caps(d);
    gpu_span span[3] = {0};
    char key[128];
    if (software_tile(caps, j, out)) return OK;
    if (job_flops(j) < TUNE_LEAST) {
        *out = gpu_tiles[j->m <= 16 ? TILE_FEW_ROWS : TILE_PLAIN];
        return OK;
    }
    snprintf(key, sizeof key, "%s_%s %c%c%d%d m%d n%d k%d b%d", j->name, dtype_name(j->type),
             j->form.a_t ? 't' : 'n', j->form.b_t ? 't' : 'n', j->form.a_vec, j->form.b_vec,
             size_class(j->m), size_class(j->n), size_class(j->k), size_class(j->batch));
    int choice = gpu_tune_get(d, key);
    if (choice < 0 || choice >= (int)ARRAY_LEN(gpu_tiles) || !candidate(caps, j, choice, out)) {
        double row = 2.0 * (double)j->n * (double)j->k, best = INFINITY;
        j->cap_m = MAX(MIN(j->m, (int64_t)(TUNE_FLOPS / row)), MIN(j->m, 128));
        j->size(j);
        bool coopmat = coopmat_applies(caps, j);
        choice = TILE_PLAIN;
        for (int i = 0; i < 3; i++)
            TRY(gpu_alloc(d, GPU_ACTIVATIONS, MAX(j->bytes[i], 256), &span[i]));
        for (int i = 0; i < (int)ARRAY_LEN(gpu_tiles); i++) {
            double s = 0;
            if (!worth_timing(j, coopmat, i) || !candidate(caps, j, i, out)) continue;
            TRY(time_tile(d, j, out, span, &s));
            log_debug("tune %s: tile %d %.3f ms", key, i, s * 1e3);
            if (s < best) best = s, choice = i;
        }
        gpu_tune_set(d, key, choice);
        candidate(caps, j, choice, out);
    }
out:
    for (int i = 0; i < 3; i++) gpu_free(d, span[i]);
    return st;
}

uint32_t gemm_splits(const gemm_tile *t, int64_t m, int64_t n, int64_t batch, int64_t k,
                     int64_t max_splits) {
    int64_t tiles = div_up(m, tile_rows(t)) * div_up(n, tile_cols(t)) * batch;
    int64_t wanted = t->stage ? GEMM_FILL : 2 * os_cpu_count();
    int64_t least_k = 512; /* shorter parts cost more in partial sums than they win */
    if (tiles >= wanted) return 1;
    return (uint32_t)MAX(1, MIN(MIN(wanted / tiles, k / least_k), max_splits));
}

int gemm_spec(const gemm_tile *t, const gemm_form *f, const gemm_epilogue *e,
              uint32_t spec[GPU_MAX_SPEC]) {
    const uint32_t v[16] = {t->lx,
                            t->ly,
                            t->stage,
                            t->tm,
                            t->tn4,
                            t->bk,
                            f->a_t,
                            f->b_t,
                            t->coopmat ? t->coopmat : f->a_vec,
                            t->coopmat ? t->coopmat : f->b_vec,
                            e->vec,
                            e->bias,
                            e->residual,
                            (uint32_t)e->act,
                            e->f32,
                            t->coopmat};
    memcpy(spec, v, sizeof v);
    return t->coopmat ? 16 : 15;
}

status gemm_reduce(gpu_cmd *c, dtype type, const gemm_epilogue *e, gpu_span part, gpu_span bias,
                   gpu_span residual, gpu_span y, int64_t count, int64_t taps, int64_t splits,
                   int64_t n) {
    struct {
        uint32_t count, taps, splits, n;
    } push = {(uint32_t)count, (uint32_t)taps, (uint32_t)splits, (uint32_t)n};
    gpu_dispatch_params p = {
        .shader = "split_reduce",
        .type = type,
        .n_spec = 15,
        .n_bind = 4,
        .bind = {part, e->bias ? bias : part, e->residual ? residual : part, y},
        .push = &push,
        .push_bytes = sizeof push,
        .work = (double)(count * taps * splits)};
    p.spec[10] = 0; /* one element at a time */
    p.spec[11] = e->bias;
    p.spec[12] = e->residual;
    p.spec[13] = (uint32_t)e->act;
    p.spec[14] = e->f32;
    gpu_groups_1d((uint64_t)(count * taps), 256, p.groups);
    return gpu_dispatch_(c, &p);
}

tensor *gemm_act_bwd(graph *g, const node *n, tensor *pre, tensor *dy, host_act act) {
    static const unary_kind kind[ACT_COUNT] = {[ACT_SILU] = U_SILU,
                                               [ACT_GELU_ERF] = U_GELU,
                                               [ACT_GELU_TANH] = U_GELU_TANH,
                                               [ACT_QUICK_GELU] = U_QUICK_GELU,
                                               [ACT_RELU] = U_RELU};
    uint32_t k = (uint32_t)kind[act];
    return op_record(g, &op_unary_bwd_info, n->at, &k, OP_IN(pre, dy));
}

tensor *gemm_dbias(graph *g, const node *n, tensor *dy) {
    int64_t cols = dy->s.d[dy->s.n - 1];
    tensor *flat = op_reshape_(g, dy, SHAPE(tensor_count(dy) / cols, cols), n->at);
    return op_reshape_(g, op_reduce_(g, flat, R_SUM, 1u, n->at), SHAPE(cols), n->at);
}

double gemm_act_ref(host_act a, double x) {
    switch (a) {
    case ACT_NONE:
    case ACT_COUNT:
        break;
    case ACT_SILU:
        return x / (1 + exp(-x));
    case ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x * 0.70710678118654752440));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case ACT_QUICK_GELU:
        return x / (1 + exp(-1.702 * x));
    case ACT_RELU:
        return x > 0 ? x : 0;
    }
    return x;
}

typedef struct host_pack {
    host *h;
    host_prim *prim;
} host_pack;

static status fill_host_pack(const pack_io *io, void *ctx) {
    host_pack *p = ctx;
    void *scratch = mem_alloc(host_prim_scratch(p->prim) + 64);
    if (!scratch) return fail(E_HOST_MEMORY, "no host memory to pack a weight");
    host_prim_pack(p->h, p->prim, io->src, io->dst, scratch);
    mem_free(scratch);
    return OK;
}

static void destroy_prim(void *p) { host_prim_destroy(p); }

status gemm_host_keep(prep *p, node *n, host_prim *prim, int w_in) {
    char key[32];
    n->prepared = prim;
    n->unprepare = destroy_prim;
    if (host_prim_scratch(prim)) prep_scratch(n, host_prim_scratch(prim));
    if (w_in < 0 || !host_prim_packed(prim)) return OK;
    host_pack *ctx =
        graph_alloc(n->g, sizeof *ctx); /* lives as long as the plan, which may pack again */
    if (!ctx) return graph_status(n->g);
    *ctx = (host_pack){p->host, prim};
    snprintf(key, sizeof key, "host %016llx", (unsigned long long)host_prim_layout(prim));
    return prep_pack(p, n, w_in, 0, key, host_prim_packed(prim), fill_host_pack, ctx);
}
