/* attention_internal.h: what attention.c (plan, threads) and the paths (one per instruction set:
 * packing and block arithmetic) agree on.
 *
 * Flash attention for a CPU: keys and values are packed once into blocks that suit the instruction
 * set ("key slots"); a task is one block of queries of one head (forward) or one run of key blocks
 * of one head (backward), so no two tasks write the same element and sums have one order.
 * Scores live in base 2: x = scale log2(e) q.k + log2(e) (offset + bias), p = 2^(x - m).
 * source  Dao et al. 2022 (FlashAttention), Dao 2023 (FlashAttention-2)
 * SPDX-License-Identifier: MIT */
#pragma once
#include "host/lanes.h"
#include <math.h>

#define ATTENTION_LOG2E 1.44269504088896340736f
#define ATTENTION_LN2   0.69314718055994530942f

/* Keys [first, first + n) of one part. */
typedef struct attention_block {
    const host_attention_part *part;
    int64_t first;  /* key within the part */
    int64_t global; /* the same, counted over all parts, hidden ones too: for causal */
    int n;          /* 1..key_block */
} attention_block;

typedef struct attention_job attention_job;

/* One instruction set's way. Slots and lane memory are 64-byte aligned; lane memory is one thread's
 * own. */
typedef struct attention_path {
    void (*sizes)(attention_job *j);
    void (*pack_keys)(const attention_job *j, int head, int64_t block);
    void (*pack_queries)(const attention_job *j, int head, int64_t query_block); /* backward only */
    void (*forward)(const attention_job *j, char *lane, int head, int64_t query_block);
    void (*backward)(const attention_job *j, char *lane, int head, int64_t block0, int64_t block1,
                     int chunk);
    /* bf16 only: attention_tiles.h */
    void (*matmul)(int mt, int nt, int depth, const uint16_t *a, int64_t lda, const uint16_t *b,
                   int64_t b_n, int64_t b_k, float *c, int64_t ldc, bool add);
    void (*begin)(void); /* a thread starts a run of the above; NULL = nothing to do */
    void (*end)(void);
} attention_path;

struct attention_job {
    const host_attention_args *a;
    const attention_path *path;
    bool is_backward;
    float c;           /* scale log2(e) */
    int lanes, chunks; /* chunks: runs that a part's key blocks are split into (backward) */
    int query_block, key_block;  /* rows */
    int64_t n_queries, n_blocks; /* blocks of queries; of keys over all visible parts */
    int64_t kd, kv; /* head width padded as left operand's depth, as a matrix's columns */
    size_t key_bytes, query_bytes, lane_bytes; /* one slot; one thread */
    attention_block *block;                    /* [n_blocks] */
    char *keys, *queries, *lane; /* [heads][n_blocks] slots; [heads][n_queries] slots; [lanes] */
    float *dq; /* [heads][chunks][n_queries * query_block][kv], unscaled (backward) */
};

extern const attention_path attention_base_path, attention_avx2_path, attention_avx512_path,
    attention_bf16_path, attention_amx_path;
/* True if the CPU has AMX-BF16 and the OS lets this process use the tile registers. */
bool attention_amx_ready(void);

/* The two calls of host.h with the instruction set named, for tests: isa must be one this CPU has.
 */
size_t attention_scratch(host_isa isa, int lanes, const host_attention_args *a, bool backward);
void attention_fwd(host *h, host_isa isa, const host_attention_args *a, void *scratch);
void attention_bwd(host *h, host_isa isa, const host_attention_args *a, void *scratch);

static inline char *attention_key_slot(const attention_job *j, int head, int64_t block) {
    return j->keys + ((size_t)head * (size_t)j->n_blocks + (size_t)block) * j->key_bytes;
}
static inline char *attention_query_slot(const attention_job *j, int head, int64_t query_block) {
    return j->queries +
           ((size_t)head * (size_t)j->n_queries + (size_t)query_block) * j->query_bytes;
}
static inline float *attention_dq(const attention_job *j, int head, int chunk,
                                  int64_t query_block) {
    int64_t rows = j->n_queries * j->query_block;
    return j->dq +
           (((int64_t)head * j->chunks + chunk) * rows + query_block * j->query_block) * j->kv;
}
static inline int attention_query_rows(const attention_job *j, int64_t query_block) {
    int64_t left = j->a->tq - query_block * j->query_block;
    return (int)MIN(left, j->query_block);
}
/* Keys of the block that query i sees; 0..n. */
static inline int attention_visible(const attention_job *j, const attention_block *b, int64_t i) {
    if (!j->a->causal) return b->n;
    int64_t seen = i - b->global + 1;
    return (int)MAX(0, MIN(seen, b->n));
}

/* Inlined into functions of every instruction set. */
#define ATTENTION_INLINE static inline __attribute__((always_inline))

/* s[0, n): q.k -> x, with bias; b is the bias's row i of this head at the block's first key, or
 * NULL. */
ATTENTION_INLINE void attention_scores(float *s, int n, float c, float offset, const float *b,
                                       int64_t b_k) {
    if (!b) {
        for (int k = 0; k < n; k++) s[k] = s[k] * c + offset;
    } else if (b_k == 1) {
        for (int k = 0; k < n; k++) s[k] = s[k] * c + (offset + b[k] * ATTENTION_LOG2E);
    } else {
        for (int k = 0; k < n; k++) s[k] = s[k] * c + (offset + b[k * b_k] * ATTENTION_LOG2E);
    }
}
static inline const float *attention_bias(const attention_block *b, int head, int64_t i) {
    const host_attention_part *p = b->part;
    return p->bias ? p->bias + head * p->bias_h + i * p->bias_q + b->first * p->bias_k : NULL;
}
