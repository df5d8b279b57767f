/* op.h: every op as a call that records it. Types: T = f32|f16|bf16, one type for all T operands of a call.
 * Small vectors (biases, norm scales, statistics, per-sample scalars) are f32. Images [N, H, W, C].
 * Each macro passes the file:line of the model code. Meaning, errors and source: the op's own file.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "graph/op_info.h"

extern const op_table op_all;                     /* op.c, from ops.def */

/* matmul.c: y = act(op(a) op(b) + bias) + residual
 *   a [..., M, K] T ([..., K, M] if trans_a); b [K, N] or [..., K, N] T ([.., N, K] if trans_b); bias [N] f32; residual = y's shape
 *   b 2-D: a's leading dims fold into M (not with trans_a, where a's dims but the last fold into K).
 *   out: DT_COUNT = a's type, or DT_F32 */
typedef struct matmul_attrs { uint32_t trans_a, trans_b, act, out; } matmul_attrs; /* act: host_act */
tensor *op_matmul_(graph *g, tensor *a, tensor *b, tensor *bias, tensor *residual, matmul_attrs at, const char *here);
#define op_matmul(g, a, b) op_matmul_(g, a, b, NULL, NULL, (matmul_attrs){.out = DT_COUNT}, HERE)
#define op_linear(g, x, w, bias) op_matmul_(g, x, w, bias, NULL, (matmul_attrs){.trans_b = 1, .out = DT_COUNT}, HERE) /* w [O, I] */
#define op_linear_full(g, x, w, bias, residual, act_) op_matmul_(g, x, w, bias, residual, (matmul_attrs){.trans_b = 1, .act = (act_), .out = DT_COUNT}, HERE)

/* conv2d.c: y = act(conv(x, w) + bias) + residual;  x [N,H,W,I] T, w [O,I,kh,kw] T, bias [O] f32 -> [N,OH,OW,O] T */
typedef struct conv2d_attrs { uint32_t stride, pad_t, pad_l, pad_b, pad_r, act; } conv2d_attrs;
tensor *op_conv2d_(graph *g, tensor *x, tensor *w, tensor *bias, tensor *residual, conv2d_attrs at, const char *here);
#define op_conv2d(g, x, w, bias, stride_, pad) op_conv2d_(g, x, w, bias, NULL, (conv2d_attrs){stride_, pad, pad, pad, pad, ACT_NONE}, HERE)

/* norms. x [..., C] T, scale and shift [C] f32 (may be NULL) -> T. group_norm: x [N, ..., C], one mean per (n, group) */
tensor *op_group_norm_(graph *g, tensor *x, tensor *scale, tensor *shift, int groups, float eps, bool silu, const char *here);
tensor *op_layer_norm_(graph *g, tensor *x, tensor *scale, tensor *shift, float eps, const char *here);
tensor *op_rms_norm_  (graph *g, tensor *x, tensor *scale, float eps, const char *here);
#define op_group_norm(g, x, s, b, groups, eps, silu) op_group_norm_(g, x, s, b, groups, eps, silu, HERE)
#define op_layer_norm(g, x, s, b, eps) op_layer_norm_(g, x, s, b, eps, HERE)
#define op_rms_norm(g, x, s, eps)      op_rms_norm_(g, x, s, eps, HERE)
tensor *op_softmax_(graph *g, tensor *x, const char *here);             /* over the last dim */
#define op_softmax(g, x) op_softmax_(g, x, HERE)

/* attention.c */
#define ATTENTION_MAX_SETS  8                     /* S: softmaxes per query entry */
#define ATTENTION_MAX_BANKS 4
#define ATTENTION_MAX_PARTS 16                    /* (bank, entry) pairs in one set */
typedef struct attention_set { uint8_t n; /* 0: adds nothing */ struct { uint8_t bank; uint16_t entry; } part[ATTENTION_MAX_PARTS]; } attention_set;
typedef struct attention_params {
    int heads; bool causal; float scale;          /* scale 0 = 1/sqrt(K) */
    tensor *q;                                    /* [Nq, Tq, heads*K] T */
    int n_banks; tensor *k[ATTENTION_MAX_BANKS], *v[ATTENTION_MAX_BANKS]; /* [Nb, Tb, heads*K] T */
    int n_sets; const attention_set *sets;        /* [Nq][n_sets]; NULL = set s of query n is {bank 0, entry n} (n_sets 1) */
    tensor *weights;                              /* [Nq, S] f32; NULL = 1 */
    tensor *offset;                               /* [Nq, S, P] f32, per part of each set (P = most parts); NULL = 0 */
    tensor *bias;                                 /* f32, broadcasts to [Nq, heads, Tq, Tk], Tk = the set's keys concatenated; NULL */
    tensor *regions_q, *regions_k, *region_table; /* u32 [Nq, Tq], u32 [Nq, Tk], f32 [R, R]: adds table[rq, rk]; all or none */
} attention_params;
/* -> [Nq, Tq, heads*K] T; tensor_out(y, 1): log-sum-exp [Nq, S, heads, Tq] f32 */
tensor *op_attention_(graph *g, const attention_params *p, const char *here);
#define op_attention(g, ...) op_attention_(g, &(attention_params){__VA_ARGS__}, HERE)

/* unary.c: elementwise, T -> T */
typedef enum unary_kind { U_SILU, U_GELU, U_GELU_TANH, U_QUICK_GELU, U_RELU, U_SIGMOID, U_TANH, U_EXP, U_SQRT, U_SQUARE, U_ABS, U_NEG, U_KIND_COUNT } unary_kind;
tensor *op_unary_(graph *g, tensor *x, unary_kind k, const char *here);
#define op_silu(g, x)       op_unary_(g, x, U_SILU, HERE)
#define op_gelu(g, x)       op_unary_(g, x, U_GELU, HERE)        /* erf */
#define op_gelu_tanh(g, x)  op_unary_(g, x, U_GELU_TANH, HERE)
#define op_quick_gelu(g, x) op_unary_(g, x, U_QUICK_GELU, HERE)
#define op_relu(g, x)       op_unary_(g, x, U_RELU, HERE)
#define op_sigmoid(g, x)    op_unary_(g, x, U_SIGMOID, HERE)
#define op_tanh(g, x)       op_unary_(g, x, U_TANH, HERE)
#define op_exp(g, x)        op_unary_(g, x, U_EXP, HERE)
#define op_sqrt(g, x)       op_unary_(g, x, U_SQRT, HERE)
#define op_square(g, x)     op_unary_(g, x, U_SQUARE, HERE)
#define op_abs(g, x)        op_unary_(g, x, U_ABS, HERE)
#define op_neg(g, x)        op_unary_(g, x, U_NEG, HERE)
tensor *op_geglu_(graph *g, tensor *x, const char *here);               /* [..., 2C] -> [..., C]: x[:C] * gelu_erf(x[C:]) */
#define op_geglu(g, x) op_geglu_(g, x, HERE)

/* binary.c: elementwise with NumPy broadcasting; a and b of one T */
typedef enum binary_kind { B_ADD, B_SUB, B_MUL, B_DIV, B_KIND_COUNT } binary_kind;
tensor *op_binary_(graph *g, tensor *a, tensor *b, binary_kind k, const char *here);
#define op_add(g, a, b) op_binary_(g, a, b, B_ADD, HERE)
#define op_sub(g, a, b) op_binary_(g, a, b, B_SUB, HERE)
#define op_mul(g, a, b) op_binary_(g, a, b, B_MUL, HERE)
#define op_div(g, a, b) op_binary_(g, a, b, B_DIV, HERE)
tensor *op_scale_(graph *g, tensor *x, float a, float b, const char *here);   /* a x + b, constants baked in */
tensor *op_clamp_(graph *g, tensor *x, float lo, float hi, const char *here); /* gradient 1 inside and at the bounds, 0 outside (as torch) */
#define op_scale(g, x, a) op_scale_(g, x, a, 0.0f, HERE)
#define op_affine(g, x, a, b) op_scale_(g, x, a, b, HERE)
#define op_clamp(g, x, lo, hi) op_clamp_(g, x, lo, hi, HERE)
tensor *op_sum_to_(graph *g, tensor *x, shape s, const char *here);     /* adds over the dims broadcasting would have stretched */
#define op_sum_to(g, x, s) op_sum_to_(g, x, s, HERE)

/* movement */
tensor *op_reshape_(graph *g, tensor *x, shape s, const char *here);    /* a view */
tensor *op_transpose_(graph *g, tensor *x, const int perm[MAX_DIMS], const char *here); /* out dim i = in dim perm[i] */
tensor *op_concat_(graph *g, tensor *const *x, int n, int dim, const char *here);       /* n <= 8 */
tensor *op_slice_ (graph *g, tensor *x, int dim, int64_t begin, int64_t end, const char *here);
tensor *op_pad_   (graph *g, tensor *x, const int64_t before[MAX_DIMS], const int64_t after[MAX_DIMS], float value, const char *here);
tensor *op_upsample_(graph *g, tensor *x, int64_t h, int64_t w, const char *here);      /* nearest, [N,H,W,C]; source row floor(i*H/h) */
typedef struct pool_attrs { uint32_t k, stride, pad, ceil_mode; } pool_attrs;
tensor *op_avg_pool_(graph *g, tensor *x, pool_attrs at, const char *here);             /* as torch: padding counted, ceil_mode windows clipped */
tensor *op_max_pool_(graph *g, tensor *x, pool_attrs at, const char *here);
tensor *op_cast_(graph *g, tensor *x, dtype t, const char *here);       /* no node when the type is the same */
#define op_reshape(g, x, ...)  op_reshape_(g, x, SHAPE(__VA_ARGS__), HERE)
#define op_transpose(g, x, ...) op_transpose_(g, x, (const int[MAX_DIMS]){__VA_ARGS__}, HERE)
#define op_concat(g, dim, ...) op_concat_(g, (tensor *[]){__VA_ARGS__}, (int)(sizeof((tensor *[]){__VA_ARGS__}) / sizeof(tensor *)), dim, HERE)
#define op_slice(g, x, dim, b, e) op_slice_(g, x, dim, b, e, HERE)
#define op_pad(g, x, before, after, v) op_pad_(g, x, before, after, v, HERE)
#define op_upsample(g, x, h, w) op_upsample_(g, x, h, w, HERE)
#define op_avg_pool(g, x, ...) op_avg_pool_(g, x, (pool_attrs){__VA_ARGS__}, HERE)
#define op_max_pool(g, x, ...) op_max_pool_(g, x, (pool_attrs){__VA_ARGS__}, HERE)
#define op_cast(g, x, t) op_cast_(g, x, t, HERE)

/* lookup */
tensor *op_embedding_(graph *g, tensor *table, tensor *ids, const char *here);   /* [V, D] T, ids [...] u32 -> [..., D]; ids >= V read row V-1 */
tensor *op_time_embedding_(graph *g, tensor *t, int dim, bool flip, float shift, float max_period, const char *here); /* t [N] f32 -> [N, dim] f32; diffusers get_timestep_embedding */
#define op_embedding(g, table, ids) op_embedding_(g, table, ids, HERE)
#define op_time_embedding(g, t, dim, flip, shift) op_time_embedding_(g, t, dim, flip, shift, 10000.0f, HERE)

/* reductions over the dims whose bit is set in `dims` (bit 0 = outermost), kept as 1; -> f32 */
typedef enum reduce_kind { R_SUM, R_MEAN, R_STD, R_NORM2, R_KIND_COUNT } reduce_kind; /* std: unbiased (n-1), as torch; norm2: sqrt(sum x^2) */
tensor *op_reduce_(graph *g, tensor *x, reduce_kind k, uint32_t dims, const char *here);
#define op_sum(g, x, dims)  op_reduce_(g, x, R_SUM, dims, HERE)
#define op_mean(g, x, dims) op_reduce_(g, x, R_MEAN, dims, HERE)
#define op_std(g, x, dims)  op_reduce_(g, x, R_STD, dims, HERE)
#define op_norm2(g, x, dims) op_reduce_(g, x, R_NORM2, dims, HERE)
#define DIMS_ALL 0xffffffffu
tensor *op_group_mean_(graph *g, tensor *x, tensor *group, int n_groups, const char *here); /* x [N, ...], group u32 [N]: every entry becomes its group's mean */
#define op_group_mean(g, x, group, n) op_group_mean_(g, x, group, n, HERE)

/* losses: sum_n weight[n] * mean_over_elements(mask * l(pred - target)) / N -> [1] f32
 *   pred, target [N, ...] T; weight [N] f32; mask f32 broadcasting to pred, NULL = 1; huber_delta f32, for LOSS_HUBER
 *   huber as torch.nn.functional.huber_loss. With a mask the mean is over all elements (mask weighs, not renormalises). */
typedef enum loss_kind { LOSS_MSE, LOSS_L1, LOSS_HUBER, LOSS_KIND_COUNT } loss_kind;
tensor *op_loss_(graph *g, tensor *pred, tensor *target, tensor *weight, tensor *mask, loss_kind k, float huber_delta, const char *here);
#define op_mse(g, p, t, w, m) op_loss_(g, p, t, w, m, LOSS_MSE, 0, HERE)
#define op_l1(g, p, t, w, m)  op_loss_(g, p, t, w, m, LOSS_L1, 0, HERE)
#define op_huber(g, p, t, w, m, delta) op_loss_(g, p, t, w, m, LOSS_HUBER, delta, HERE)

/* optimiser: f32 STATE arrays, updated in place */
/* clip_factor: from the squared gradient norms of all chunks: min(1, max_norm / (norm + 1e-6)) / loss_scale -> [2] f32
 * {factor, norm}; a non-finite norm gives factor 0 and sets found_inf. parts [P] f32 = sums of squares; limits [2] f32 = {max_norm (0 = off), loss_scale} */
tensor *op_clip_factor_(graph *g, tensor *parts, tensor *limits, tensor *found_inf, const char *here); /* found_inf u32 [1], state, written */
#define op_clip_factor(g, parts, limits, found_inf) op_clip_factor_(g, parts, limits, found_inf, HERE)
/* adamw: torch.optim.AdamW. p, m, v f32 [n] state; grad f32 [n]; hyper f32 [6] = {lr, beta1, beta2, eps, weight_decay, step (1-based)};
 * factor [2] f32 multiplies grad, 0 in factor with found_inf set skips the step; copy: half [n] compute copy refreshed, or NULL */
void op_adamw_(graph *g, tensor *p, tensor *grad, tensor *m, tensor *v, tensor *hyper, tensor *factor, tensor *found_inf, tensor *copy, const char *here);
#define op_adamw(g, p, dp, m, v, hyper, factor, inf, copy) op_adamw_(g, p, dp, m, v, hyper, factor, inf, copy, HERE)
/* adamw8: the same with moments of 8 bits, in blocks of ADAMW8_BLOCK elements: codes u32 [blocks, 128] and scale f32 [blocks, 2] are
 * STATE; all zeros: moments of 0 (op/adamw8.c) */
#define ADAMW8_BLOCK 256
void op_adamw8_(graph *g, tensor *p, tensor *grad, tensor *codes, tensor *scale, tensor *hyper, tensor *factor, tensor *found_inf, tensor *copy, const char *here);
#define op_adamw8(g, p, dp, codes, scale, hyper, factor, inf, copy) op_adamw8_(g, p, dp, codes, scale, hyper, factor, inf, copy, HERE)
void op_ema_(graph *g, tensor *avg, tensor *p, tensor *decay, const char *here);        /* avg = d*avg + (1-d)*p; decay [1] f32 */
#define op_ema(g, avg, p, decay) op_ema_(g, avg, p, decay, HERE)
void op_store_(graph *g, tensor *dst, tensor *src, bool accumulate, const char *here);  /* state dst = src, or dst += src; types may differ */
#define op_store(g, dst, src)      op_store_(g, dst, src, false, HERE)
#define op_accumulate(g, dst, src) op_store_(g, dst, src, true, HERE)
tensor *op_zeros_(graph *g, dtype t, shape s, float value, const char *here);           /* a constant fill */
#define op_zeros(g, t, s) op_zeros_(g, t, s, 0.0f, HERE)
#define op_fill(g, t, s, v) op_zeros_(g, t, s, v, HERE)

/* noise: Philox keyed by (seed u32 [2], stream, sample[n], element); shape [N, ...]; sample u32 [N] global indices */
tensor *op_noise_(graph *g, tensor *seed, tensor *sample, uint32_t stream, shape s, dtype t, bool normal, const char *here);
#define op_randn(g, seed, sample, stream, s, t) op_noise_(g, seed, sample, stream, s, t, true, HERE)
#define op_rand(g, seed, sample, stream, s, t)  op_noise_(g, seed, sample, stream, s, t, false, HERE)

/* mix: out[n, ...] = sum_i w[n, i] * x_i[n, ...]; x_i [N, ...] f32 or T each, w [N, S] f32 -> f32. n <= 8.
 * mask [N, ...] f32 broadcasting (NULL = none): out = mask * out + (1 - mask) * keep */
tensor *op_mix_(graph *g, tensor *const *x, int n, tensor *w, tensor *mask, tensor *keep, const char *here);
#define op_mix(g, x, n, w, mask, keep) op_mix_(g, x, n, w, mask, keep, HERE)

/* small linear algebra, f32 */
tensor *op_inverse_(graph *g, tensor *a, const char *here);             /* [..., n, n], n <= 256, partial pivoting */
tensor *op_solve_(graph *g, tensor *a, tensor *b, const char *here);    /* [..., n, n] x = [..., n, m] */
#define op_inverse(g, a) op_inverse_(g, a, HERE)
#define op_solve(g, a, b) op_solve_(g, a, b, HERE)
tensor *op_block_matmul_(graph *g, tensor *x, tensor *r, bool trans_r, const char *here); /* x [..., B*b] T, r [B, b, b] T: y[.., i*b+k] = sum_j x[.., i*b+j] r[i,j,k] */
#define op_block_matmul(g, x, r, trans_r) op_block_matmul_(g, x, r, trans_r, HERE)
