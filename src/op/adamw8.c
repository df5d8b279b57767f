/* adamw8: one step of AdamW (adamw.c) whose moments are kept in 8 bits, in place.
 *   p, grad  [n] f32, n cut into blocks of 256      hyper, factor, found_inf, copy  as adamw's
 *   codes    [blocks, 128] u32 state: 256 bytes of m, then 256 of v, lowest byte first
 *   scale    [blocks, 2] f32 state: largest |m| and v of the block. All zeros: moments of 0
 * A moment is level(code) * scale. Levels are pseudo floats: a decade of ten per power of two, as
 * many steps in it as the power says, so 7 decades below 1; m has signs, v one step more a decade.
 * The step is taken with moments as they are before they are rounded to the nearest level. A
 * negative m does not become 0. errors  E_SHAPE      source  Dettmers et al. 2022 (8-bit
 * optimizers, block-wise, dynamic map) SPDX-License-Identifier: MIT */
#include "op/adam.h"
#include "op/move.h"
#include <math.h>

enum { P, GRAD, CODES, SCALE, HYPER, FACTOR, FOUND_INF, COPY, INPUTS };
enum { BLOCK = ADAMW8_BLOCK, WORDS = BLOCK / 2, ZERO_M = 127 };
extern const op_info op_adamw8_info;

void op_adamw8_(graph *g, tensor *p, tensor *grad, tensor *codes, tensor *scale, tensor *hyper,
                tensor *factor, tensor *found_inf, tensor *copy, const char *here) {
    op_record(g, &op_adamw8_info, here, NULL,
              OP_IN(p, grad, codes, scale, hyper, factor, found_inf, copy));
}

static status infer(graph *g, node *n) {
    (void)g;
    dtype t = n->in[P]->dtype;
    int64_t count = tensor_count(n->in[P]), blocks = div_up(count, BLOCK);
    const int64_t want[] = {count, count, blocks * WORDS, blocks * 2, 6, 2, 1, count};
    for (int i = 0; i < INPUTS; i++) {
        const tensor *x = n->in[i];
        bool words = i == CODES || i == FOUND_INF;
        if (!x && i >= FACTOR) continue;
        if (tensor_count(x) != want[i] ||
            (i == COPY ? !move_is_float(x->dtype) : x->dtype != (words ? DT_U32 : dtype_acc(t))))
            return fail(E_SHAPE, "adamw8: input %d has %lld elements of %s, expected %lld of %s", i,
                        (long long)tensor_count(x), dtype_name(x->dtype), (long long)want[i],
                        words ? "u32" : "f32");
    }
    return OK;
}

static status encode(gpu_cmd *c, const node *n) {
    const tensor *copy = n->in[COPY];
    uint32_t count = (uint32_t)tensor_count(n->in[P]), blocks = (count + BLOCK - 1) / BLOCK;
    struct {
        uint32_t n, blocks;
    } push = {count, blocks};
    gpu_dispatch_params d = {
        .shader = "adamw8",
        .type = copy ? copy->dtype : DT_F32,
        .spec = {n->in[FACTOR] != NULL, n->in[FOUND_INF] != NULL, copy != NULL},
        .n_spec = 3,
        .n_bind = INPUTS,
        .push = &push,
        .push_bytes = sizeof push,
        .work = 60.0 * count};
    for (int i = 0; i < INPUTS; i++)
        d.bind[i] = (n->in[i] ? n->in[i] : i == COPY ? n->in[P] : n->in[HYPER])->span;
    return move_dispatch(c, d, (uint64_t)blocks * BLOCK);
}

/* ---- levels ---- */
/* Level u of the decades that begin with level 2^first. */
static double magnitude(int u, int first) {
    static const double ten[] = {1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1};
    int e = 0;
    while (u >> (e + 1)) e++;
    return ten[e - first] * (0.1 + 0.9 * (u + 0.5 - (1 << e)) / (1 << e));
}

static double level_m(int c) {
    int u = c < ZERO_M ? ZERO_M - c : c - ZERO_M;
    if (c == ZERO_M || c == 255) return c == 255;
    return (c < ZERO_M ? -1 : 1) * magnitude(u, 0);
}

static double level_v(int c) {
    if (c == 0 || c == 255) return c == 255;
    return magnitude(c + 1, 1);
}

static uint8_t *codes_of(const node *n, int64_t block) {
    return (uint8_t *)n->in[CODES]->data + block * 2 * BLOCK;
}

/* ---- the CPU ---- */
typedef struct levels {
    float m[256], v[256];
} levels;

static uint8_t nearest(const float *level, float x) {
    int lo = 0, hi = 255;
    while (hi - lo > 1) {
        int mid = (lo + hi) / 2;
        if (level[mid] <= x)
            lo = mid;
        else
            hi = mid;
    }
    return (uint8_t)(x - level[lo] <= level[hi] - x ? lo : hi);
}

typedef struct job {
    const node *n;
    host_isa isa;
    adam_step s;
    levels l;
} job;

static void run(void *ctx, int64_t begin, int64_t end) {
    const job *j = ctx;
    const node *n = j->n;
    float *scale = n->in[SCALE]->data, m[BLOCK], v[BLOCK];
    for (int64_t b = begin; b < end; b++) {
        int64_t at = b * BLOCK, k = MIN(BLOCK, tensor_count(n->in[P]) - at);
        uint8_t *code = codes_of(n, b);
        float most_m = 0, most_v = 0, *p = (float *)n->in[P]->data + at;
        for (int64_t i = 0; i < k; i++) {
            m[i] = j->l.m[code[i]] * scale[2 * b];
            v[i] = j->l.v[code[BLOCK + i]] * scale[2 * b + 1];
        }
        adam_update(j->isa, &j->s, p, (const float *)n->in[GRAD]->data + at, m, v, k);
        if (n->in[COPY]) move_save(j->isa, n->in[COPY], at, k, p);
        for (int64_t i = 0; i < k; i++)
            most_m = fmaxf(most_m, fabsf(m[i])), most_v = fmaxf(most_v, v[i]);
        for (int64_t i = 0; i < BLOCK; i++) {
            uint8_t c = most_m > 0 && i < k ? nearest(j->l.m, m[i] / most_m) : ZERO_M;
            code[i] = c == ZERO_M && i < k && m[i] < 0 ? ZERO_M - 1 : c;
            code[BLOCK + i] = most_v > 0 && i < k ? nearest(j->l.v, v[i] / most_v) : 0;
        }
        scale[2 * b] = most_m, scale[2 * b + 1] = most_v;
    }
}

static void host_run(host *h, const node *n) {
    const tensor *factor = n->in[FACTOR];
    if (n->in[FOUND_INF] && *(const uint32_t *)n->in[FOUND_INF]->data) return;
    job j = {.n = n,
             .isa = host_get_isa(h),
             .s = adam_step_of(n->in[HYPER]->data, factor ? factor->data : NULL)};
    for (int c = 0; c < 256; c++) j.l.m[c] = (float)level_m(c), j.l.v[c] = (float)level_v(c);
    host_parallel(h, div_up(tensor_count(n->in[P]), BLOCK), 8, run, &j);
}

/* ---- the meaning ---- */
static int nearest_of(double (*level)(int), double x) {
    int best = 0;
    for (int c = 1; c < 256; c++)
        if (fabs(level(c) - x) < fabs(level(best) - x)) best = c;
    return best;
}

static void ref_block(const node *n, int64_t b) {
    double lr = IN(HYPER, 0), b1 = IN(HYPER, 1), b2 = IN(HYPER, 2), t = IN(HYPER, 5),
           factor = n->in[FACTOR] ? IN(FACTOR, 0) : 1, m[BLOCK] = {0}, v[BLOCK] = {0}, most_m = 0,
           most_v = 0;
    uint8_t *code = codes_of(n, b);
    for (int64_t k = 0, i = b * BLOCK; k < BLOCK && i < tensor_count(n->in[P]); k++, i++) {
        double g = factor * IN(GRAD, i);
        m[k] = b1 * level_m(code[k]) * IN(SCALE, 2 * b) + (1 - b1) * g;
        v[k] = b2 * level_v(code[BLOCK + k]) * IN(SCALE, 2 * b + 1) + (1 - b2) * g * g;
        double p =
            IN(P, i) * (1 - lr * IN(HYPER, 4)) -
            lr / (1 - pow(b1, t)) * m[k] / (sqrt(v[k]) / sqrt(1 - pow(b2, t)) + IN(HYPER, 3));
        SET_IN(P, i, p);
        if (n->in[COPY]) SET_IN(COPY, i, p);
        most_m = fmax(most_m, fabs(m[k])), most_v = fmax(most_v, v[k]);
    }
    for (int k = 0; k < BLOCK; k++) {
        int c = most_m > 0 ? nearest_of(level_m, m[k] / most_m) : ZERO_M;
        code[k] = (uint8_t)(c == ZERO_M && m[k] < 0 ? ZERO_M - 1 : c);
        code[BLOCK + k] = (uint8_t)(most_v > 0 ? nearest_of(level_v, v[k] / most_v) : 0);
    }
    SET_IN(SCALE, 2 * b, most_m);
    SET_IN(SCALE, 2 * b + 1, most_v);
}

static void ref(const node *n) {
    if (n->in[FOUND_INF] && IN(FOUND_INF, 0) != 0) return;
    for (int64_t b = 0; b < div_up(tensor_count(n->in[P]), BLOCK); b++) ref_block(n, b);
}

/* in: p, grad, codes, scale, found_inf or -, copy or -
 * a: lr, beta1, beta2, eps, weight_decay, step, factor (0 = none) */
static tensor *build(graph *g, tensor **in, const op_case *c) {
    dtype t = in[0]->dtype;
    tensor *h[6];
    for (int i = 0; i < 6; i++) h[i] = op_fill(g, t, SHAPE(1), (float)c->a[i]);
    tensor *factor = c->a[6] != 0 ? op_fill(g, t, SHAPE(2), (float)c->a[6]) : NULL;
    op_adamw8_(g, in[0], in[1], in[2], in[3], op_concat_(g, h, 6, 0, HERE), factor, in[4], in[5],
               HERE);
    return in[0];
}

#define ANY "u32<4294967295"
static const op_case cases[] = {
    CASE("f32[1] f32[1] " ANY "[1,128] f32[1,2]=0:1 - -", .a = {1e-3, 0.9, 0.999, 1e-8, 0.01, 1}),
    CASE("f32[256] f32[256] " ANY "[1,128] f32[1,2]=0:1 u32<1[1] -",
         .a = {1e-2, 0.9, 0.99, 1e-8, 0.1, 3, 0.25}),
    CASE("f32[515] f32[515] " ANY "[3,128] f32[3,2]=0:1 - -", .a = {1e-2, 0.5, 0.95, 1e-6, 0, 7}),
    /* a fresh state, gradients of 0 */
    CASE("f32[9,33] f32[9,33]=0:0 " ANY "[2,128] f32[2,2]=0:0 - -",
         .a = {0.1, 0.9, 0.999, 1e-8, 0.1, 1}),
    CASE("f32[3,5] f32[3,5] " ANY "[1,128] f32[1,2]=0:1 u32<1000[1] -", /* found_inf: no step */
         .a = {0.1, 0.9, 0.999, 1e-8, 0.1, 3, 1}),
    CASE("f32[301] f32[301] " ANY "[2,128] f32[2,2]=0:1 u32<1[1] [301]",
         .a = {1e-2, 0.9, 0.999, 1e-8, 0.01, 2, 0.5}),
};

const op_info op_adamw8_info = {.name = "adamw8",
                                .n_in = INPUTS,
                                .n_out = 0,
                                .types = TYPES_FLOAT,
                                .writes = 1u << P | 1u << CODES | 1u << SCALE | 1u << COPY,
                                .infer = infer,
                                .encode = encode,
                                .host = host_run,
                                .ref = ref,
                                .build = build,
                                CASES(cases)};
