/* noise: random numbers by counter, so that batching, resuming and recomputing give the same ones.
 *   seed    [2] u32       key, with `stream` (rng_stream of a name) mixed in
 *   sample  [N] u32       global index of each sample
 *   returns shape s = [N, ...] of type t: normal (mean 0, deviation 1) or uniform in [0, 1);
 *   elements are counted within their sample. Words and formulas: base/base.h.
 *   errors  E_SHAPE      source  Salmon et al. 2011 (Philox4x32-10); Box & Muller 1958
 * SPDX-License-Identifier: MIT */
#include "host/lanes.h"
#include "op/move.h"
#include <math.h>

typedef struct noise_attrs {
    shape s;
    uint32_t stream, type, normal;
} noise_attrs;
extern const op_info op_noise_info;

tensor *op_noise_(graph *g, tensor *seed, tensor *sample, uint32_t stream, shape s, dtype t,
                  bool normal, const char *here) {
    return op_record(g, &op_noise_info, here, &(noise_attrs){s, stream, (uint32_t)t, normal},
                     OP_IN(seed, sample));
}

static status infer(graph *g, node *n) {
    (void)g;
    const noise_attrs *a = ATTRS(n, noise_attrs);
    if (n->in[0]->dtype != DT_U32 || tensor_count(n->in[0]) != 2 || n->in[1]->dtype != DT_U32 ||
        tensor_count(n->in[1]) != a->s.d[0])
        return fail(E_SHAPE,
                    "noise takes seed u32 [2] and one u32 sample index for each of %lld samples",
                    (long long)a->s.d[0]);
    if (!move_is_float((dtype)a->type))
        return fail(E_SHAPE, "noise of type %s", dtype_name((dtype)a->type));
    out_set(n, 0, (dtype)a->type, a->s);
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const noise_attrs *a = ATTRS(n, noise_attrs);
    uint64_t count = (uint64_t)tensor_count(n->out[0]);
    struct {
        uint32_t n, per, stream;
    } push = {(uint32_t)count, (uint32_t)(count / (uint64_t)a->s.d[0]), a->stream};
    return move_dispatch(
        c,
        (gpu_dispatch_params){.shader = "noise",
                              .type = n->out[0]->dtype,
                              .spec = {a->normal},
                              .n_spec = 1,
                              .bind = {n->in[0]->span, n->in[1]->span, n->out[0]->span},
                              .n_bind = 3,
                              .push = &push,
                              .push_bytes = sizeof push,
                              .work = 100.0 * (double)count},
        push.n);
}

/* -ln((w + 1) 2^-32). Near 1 from the distance to 1, which is exact in integers; else from the
 * mantissa in [3/4, 3/2) and the exponent. */
LANE_INLINE float minus_log(uint32_t w) {
    bool near = w >= 0xC0000000u;
    float d = (float)~w * 0x1p-32f, f = (float)(w + 1u);
    uint32_t u = lane_word(f), up = (u >> 22) & 1u;
    float m = lane_bits((u & 0x7fffffu) | (up ? 0x3f000000u : 0x3f800000u));
    float base = (float)((int32_t)(u >> 23) - 159 + (int32_t)up) * 0.693147180559945f;
    float s = near ? -d / (2.0f - d) : (m - 1.0f) / (m + 1.0f), q = s * s;
    float p =
        1.0f + q * (1.0f / 3 + q * (1.0f / 5 + q * (1.0f / 7 + q * (1.0f / 9 + q * (1.0f / 11)))));
    return -((near ? 0.0f : base) + 2.0f * s * p);
}

/* cos(2 pi w 2^-32): quadrant from the top bits, then Taylor on [-pi/4, pi/4]. */
LANE_INLINE float cos_turn(uint32_t w) {
    uint32_t quadrant = (w + 0x20000000u) >> 30;
    float x = (float)(int32_t)(w - (quadrant << 30)) * 1.4629180792671596e-9f, q = x * x;
    float s =
        x * (1.0f + q * (-1.0f / 6 + q * (1.0f / 120 + q * (-1.0f / 5040 + q * (1.0f / 362880)))));
    float c = 1.0f + q * (-0.5f + q * (1.0f / 24 + q * (-1.0f / 720 + q * (1.0f / 40320))));
    float r = quadrant & 1u ? s : c;
    return quadrant == 1 || quadrant == 2 ? -r : r;
}

/* y[i] = element at + i of a sample, n <= LANES; elements of one sample are below 2^32 (a tensor is
 * at most 4 GiB). Words first, then formulas: two loops that the compiler vectorises. */
HOST_KERNEL(noise_block,
            (uint32_t seed0, uint32_t seed1, uint32_t sample, uint32_t at, bool normal,
             float *restrict y, int64_t n),
            (seed0, seed1, sample, at, normal, y, n)) {
    uint32_t w0[LANES], w1[LANES];
    for (int64_t i = 0; i < n; i++) {
        uint32_t c0 = at + (uint32_t)i, c1 = 0, c2 = sample, c3 = 0, k0 = seed0, k1 = seed1;
        for (int round = 0; round < 10; round++) {
            uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c1 = (uint32_t)p1;
            c3 = (uint32_t)p0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        w0[i] = c0;
        w1[i] = c1;
    }
    if (normal)
        for (int64_t i = 0; i < n; i++) y[i] = sqrtf(2.0f * minus_log(w0[i])) * cos_turn(w1[i]);
    else
        for (int64_t i = 0; i < n; i++) y[i] = (float)(w0[i] >> 8) * 0x1p-24f;
}

typedef struct job {
    const node *n;
    host_isa isa;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    const noise_attrs *a = ATTRS(n, noise_attrs);
    const uint32_t *seed = n->in[0]->data, *sample = n->in[1]->data;
    int64_t per = tensor_count(n->out[0]) / a->s.d[0];
    for (int64_t i = begin; i < end;) {
        float v[LANES];
        int64_t at = i % per, m = MIN(MIN(per - at, end - i), LANES);
        noise_block(j->isa, seed[0], seed[1] ^ a->stream, sample[i / per], (uint32_t)at, a->normal,
                    v, m);
        move_save(j->isa, n->out[0], i, m, v);
        i += m;
    }
}

static void host_run(host *h, const node *n) {
    host_parallel(h, tensor_count(n->out[0]), 4096, run, &(job){n, host_get_isa(h)});
}

static void ref(const node *n) {
    const noise_attrs *a = ATTRS(n, noise_attrs);
    const uint32_t *seed = n->in[0]->data, *sample = n->in[1]->data;
    rng_key key = {{seed[0], seed[1]}, a->stream};
    int64_t per = tensor_count(n->out[0]) / a->s.d[0];
    EACH(i, n->out[0]) {
        uint64_t s = sample[i / per], e = (uint64_t)(i % per);
        SET(0, i, a->normal ? rng_normal(key, s, e) : rng_uniform(key, s, e));
    }
}

/* a: type, normal, elements per sample */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    shape s = {2, {tensor_count(in[1]), (int64_t)c->a[2]}};
    return op_noise_(g, in[0], in[1], rng_stream("test"), s, (dtype)c->a[0], c->a[1] != 0, HERE);
}

static const op_case cases[] = {
    CASE("u32<1000[2] u32<10[1]", .a = {DT_F32, 1, 1}),
    CASE("u32<1000[2] u32<4000000000[3]", .a = {DT_F32, 1, 1001}, .tol = 3e-6),
    CASE("u32<4000000000[2] u32<1000[5]", .a = {DT_F32, 0, 333}, .tol = 1e-9),
    CASE("u32<1000[2] u32<10[2]", .a = {DT_F16, 1, 77}, .tol = 1e-3),
    CASE("u32<1000[2] u32<10[2]", .a = {DT_BF16, 0, 77}, .tol = 8e-3),
    CASE("u32<1000[2] u32<9999[4]", .a = {DT_F32, 1, 65536}, .tol = 3e-6),
};

const op_info op_noise_info = {.name = "noise",
                               .n_in = 2,
                               .n_out = 1,
                               .attrs_size = sizeof(noise_attrs),
                               .types = TYPES_F32,
                               .infer = infer,
                               .encode = encode,
                               .host = host_run,
                               .ref = ref,
                               .build = build,
                               CASES(cases)};
