/* attention.c: host_attention_*: plans the scratch, picks the path of the instruction set and type,
 * and hands tasks to threads. The arithmetic is in attention_vector.h (float, three widths) and
 * attention_bf16*.c (bf16 tiles); attention_internal.h tells the common idea.
 *
 * Tasks go to threads round robin, not in runs: with causal masks the later query blocks cost more.
 * What a task computes does not depend on the thread, so forward results are the same for any
 * number of threads; backward's dq is a sum over key chunks, whose number follows the number of
 * threads.
 * SPDX-License-Identifier: MIT */
#include "host/attention_internal.h"
#include <assert.h>

static const attention_path *path_for(host_isa isa, dtype t) {
#if defined(__x86_64__)
    if (isa >= ISA_AMX && t == DT_BF16 && attention_amx_ready()) return &attention_amx_path;
    if (isa >= ISA_AVX512_BF16 && t == DT_BF16) return &attention_bf16_path;
    if (isa >= ISA_AVX512) return &attention_avx512_path;
    if (isa == ISA_AVX2) return &attention_avx2_path;
#endif
    (void)isa, (void)t;
    return &attention_base_path;
}

/* Blocks of all parts: what scratch is sized for. Offsets may change between replays. */
static int64_t count_blocks(const attention_job *j) {
    int64_t n = 0;
    for (int p = 0; p < j->a->n_parts; p++) n += div_up(j->a->part[p].t, j->key_block);
    return n;
}
/* Lists the blocks of visible parts; returns their number. */
static int64_t list_blocks(const attention_job *j, attention_block *out) {
    int64_t n = 0, global = 0;
    for (int p = 0; p < j->a->n_parts; global += j->a->part[p++].t) {
        const host_attention_part *part = &j->a->part[p];
        if (part->offset == -INFINITY) continue;
        for (int64_t k = 0; k < part->t; k += j->key_block)
            out[n++] = (attention_block){part, k, global + k, (int)MIN(part->t - k, j->key_block)};
    }
    return n;
}

/* Fewest runs of key blocks per head that keep the threads busy: a part is its own round. */
static int choose_chunks(int heads, int lanes, int64_t blocks) {
    int best = 1;
    for (int c = 1; c <= MIN(2 * lanes, blocks); c++) {
        int tasks = heads * c, full = (int)div_up(tasks, lanes) * lanes;
        best = c;
        if (tasks * 10 >= full * 9) break;
    }
    return best;
}

static size_t plan(attention_job *j, host_isa isa, int lanes, const host_attention_args *a,
                   bool backward, char *scratch) {
    *j = (attention_job){.a = a,
                         .path = path_for(isa, a->type),
                         .is_backward = backward,
                         .c = a->scale * ATTENTION_LOG2E,
                         .lanes = lanes,
                         .chunks = 1};
    j->path->sizes(j);
    j->n_queries = div_up(a->tq, j->query_block);
    int64_t blocks = count_blocks(j);
    if (backward) j->chunks = choose_chunks(a->heads, lanes, blocks);
    size_t at = 0, heads = (size_t)a->heads;
    size_t list = at;
    at += align_up((size_t)blocks * sizeof(attention_block), 64);
    size_t keys = at;
    at += heads * (size_t)blocks * j->key_bytes;
    size_t queries = at;
    if (backward) at += heads * (size_t)j->n_queries * j->query_bytes;
    size_t dq = at;
    if (backward)
        at += heads * (size_t)j->chunks * (size_t)(j->n_queries * j->query_block) * (size_t)j->kv *
              sizeof(float);
    size_t lane = at;
    at += (size_t)lanes * j->lane_bytes;
    if (scratch) {
        j->block = (attention_block *)(scratch + list);
        j->keys = scratch + keys, j->queries = scratch + queries, j->lane = scratch + lane;
        j->dq = (float *)(scratch + dq);
        j->n_blocks = list_blocks(j, j->block);
    }
    return at;
}

/* ---- tasks over threads ---- */
typedef struct run {
    const attention_job *j;
    int64_t tasks;
    void (*task)(const struct run *r, char *lane, int64_t t);
    int64_t block0, block1; /* backward: one part's blocks */
} run;

static void lane_body(void *ctx, int64_t begin, int64_t end) {
    const run *r = ctx;
    const attention_job *j = r->j;
    if (j->path->begin) j->path->begin();
    for (int64_t l = begin; l < end; l++)
        for (int64_t t = l; t < r->tasks; t += j->lanes)
            r->task(r, j->lane + (size_t)l * j->lane_bytes, t);
    if (j->path->end) j->path->end();
}
static void run_tasks(host *h, run r) {
    if (r.tasks > 0) host_parallel(h, MIN(r.j->lanes, r.tasks), 1, lane_body, &r);
}

static void task_pack_keys(const run *r, char *lane, int64_t t) {
    (void)lane;
    r->j->path->pack_keys(r->j, (int)(t / r->j->n_blocks), t % r->j->n_blocks);
}
static void task_pack_queries(const run *r, char *lane, int64_t t) {
    (void)lane;
    const attention_job *j = r->j;
    int head = (int)(t / j->n_queries);
    int64_t q = t % j->n_queries;
    j->path->pack_queries(j, head, q);
    for (int c = 0; c < j->chunks; c++)
        memset(attention_dq(j, head, c, q), 0,
               (size_t)j->query_block * (size_t)j->kv * sizeof(float));
}
static void task_forward(const run *r, char *lane, int64_t t) {
    r->j->path->forward(r->j, lane, (int)(t / r->j->n_queries), t % r->j->n_queries);
}
static void task_backward(const run *r, char *lane, int64_t t) {
    const attention_job *j = r->j;
    int head = (int)(t / j->chunks), chunk = (int)(t % j->chunks);
    int64_t n = r->block1 - r->block0;
    int64_t b0 = r->block0 + n * chunk / j->chunks, b1 = r->block0 + n * (chunk + 1) / j->chunks;
    if (b0 < b1) j->path->backward(j, lane, head, b0, b1, chunk);
}
static void task_add_dq(const run *r, char *lane, int64_t t) {
    (void)lane;
    const attention_job *j = r->j;
    const host_attention_args *a = j->a;
    int head = (int)(t / j->n_queries);
    int64_t q = t % j->n_queries;
    for (int i = 0; i < attention_query_rows(j, q); i++) {
        float *dq = a->dq + (q * j->query_block + i) * a->heads * a->kw + head * a->kw;
        for (int c = 0; c < j->chunks; c++) {
            const float *x = attention_dq(j, head, c, q) + i * j->kv;
            for (int64_t k = 0; k < a->kw; k++) dq[k] += a->scale * x[k];
        }
    }
}

size_t attention_scratch(host_isa isa, int lanes, const host_attention_args *a, bool backward) {
    attention_job j;
    return plan(&j, isa, lanes, a, backward, NULL);
}

static void check(const host_attention_args *a, const void *scratch) {
    assert(a->type == DT_F32 || a->type == DT_F16 || a->type == DT_BF16);
    assert(a->heads > 0 && a->kw > 0 && a->tq >= 0 && a->n_parts >= 0);
    assert(((uintptr_t)scratch & 63) == 0);
    (void)a, (void)scratch;
}

void attention_fwd(host *h, host_isa isa, const host_attention_args *a, void *scratch) {
    attention_job j;
    check(a, scratch);
    plan(&j, isa, host_threads(h), a, false, scratch);
    run_tasks(h, (run){&j, a->heads * j.n_blocks, task_pack_keys});
    run_tasks(h, (run){&j, a->heads * j.n_queries, task_forward});
}

void attention_bwd(host *h, host_isa isa, const host_attention_args *a, void *scratch) {
    attention_job j;
    check(a, scratch);
    plan(&j, isa, host_threads(h), a, true, scratch);
    run_tasks(h, (run){&j, a->heads * j.n_blocks, task_pack_keys});
    run_tasks(h, (run){&j, a->heads * j.n_queries, task_pack_queries});
    /* One part after the other: two parts may share a dk, as when a set names the same image twice.
     */
    for (int64_t b = 0, e; b < j.n_blocks; b = e) {
        for (e = b + 1; e < j.n_blocks && j.block[e].part == j.block[b].part;) e++;
        run_tasks(h, (run){&j, (int64_t)a->heads * j.chunks, task_backward, b, e});
    }
    run_tasks(h, (run){&j, a->heads * j.n_queries, task_add_dq});
}

size_t host_attention_scratch(const host *h, const host_attention_args *a, bool backward) {
    return attention_scratch(host_get_isa(h), host_threads(h), a, backward);
}
void host_attention_fwd(host *h, const host_attention_args *a, void *scratch) {
    attention_fwd(h, host_get_isa(h), a, scratch);
}
void host_attention_bwd(host *h, const host_attention_args *a, void *scratch) {
    attention_bwd(h, host_get_isa(h), a, scratch);
}
