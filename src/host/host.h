/* host.h: the CPU room. Thread team, instruction-set levels, and the heavy kernels: matmul and
 * convolution through oneDNN (version 2 or 3), attention by our own kernels.
 * The only room that includes dnnl.h. All data is dense, outermost first; images are NHWC.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "base/dtype.h"

typedef struct host host;
typedef enum host_isa { ISA_BASE, ISA_AVX2, ISA_AVX512, ISA_AVX512_BF16, ISA_AMX, ISA_COUNT } host_isa;
/* ISA_AVX512 = F+BW+VL+DQ; ISA_AMX adds AMX-BF16 to AVX512-BF16. The level follows oneDNN's effective
 * ISA, so ONEDNN_MAX_CPU_ISA=AVX2 (DNNL_MAX_CPU_ISA works too, versions 2 and 3) caps the library's
 * kernels and ours with one switch. */
typedef struct host_caps {
    char name[128]; int threads; host_isa isa;
    bool fast_bf16;                   /* AVX512-BF16 or AMX: bf16 is worth computing in */
    bool amx;
    char onednn[32];                  /* "2.6.3" as loaded */
    uint64_t memory_bytes, memory_free_bytes;
} host_caps;

status host_open(int threads, host **out);      /* 0 = all cores */
void   host_close(host *h);
const host_caps *host_get_caps(const host *h);
host_isa host_get_isa(const host *h);
int    host_threads(const host *h);

/* Runs body(ctx, begin, end) over [0, n) on the team, in pieces of at least `grain`; static split, so
 * which thread does what depends on n and the thread count only. Serial when n <= grain. */
void host_parallel(host *h, int64_t n, int64_t grain, void (*body)(void *ctx, int64_t begin, int64_t end), void *ctx);

/* Three builds of one loop, chosen at run time. The body must be plain C the compiler can vectorise:
 *   HOST_KERNEL(silu_f32, (const float *x, float *y, int64_t n), (x, y, n)) { for (...) ... }
 * defines static void silu_f32(host_isa isa, const float *x, float *y, int64_t n); the body sees isa. */
#if defined(__x86_64__)
#define HOST_TARGET_AVX2   __attribute__((target("avx2,fma,f16c,bmi2")))
#define HOST_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi2,prefer-vector-width=512")))
#define HOST_TARGET_BF16   __attribute__((target("avx512bf16,avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,bmi2,prefer-vector-width=512")))
#else
#define HOST_TARGET_AVX2
#define HOST_TARGET_AVX512
#endif
#define HOST_UNPAREN(...) __VA_ARGS__
#define HOST_PARAMS(params) (__attribute__((unused)) host_isa isa, HOST_UNPAREN params)
#define HOST_ARGS(args) (isa, HOST_UNPAREN args)
#define HOST_KERNEL(name, params, args)                                                            \
    static inline __attribute__((always_inline)) void name##_body HOST_PARAMS(params);             \
    HOST_TARGET_AVX512 static void name##_avx512 HOST_PARAMS(params) { name##_body HOST_ARGS(args); }\
    HOST_TARGET_AVX2 static void name##_avx2 HOST_PARAMS(params) { name##_body HOST_ARGS(args); }  \
    static void name##_base HOST_PARAMS(params) { name##_body HOST_ARGS(args); }                   \
    static void name HOST_PARAMS(params) {                                                         \
        if (isa >= ISA_AVX512) name##_avx512 HOST_ARGS(args);                                      \
        else if (isa == ISA_AVX2) name##_avx2 HOST_ARGS(args);                                     \
        else name##_base HOST_ARGS(args);                                                          \
    }                                                                                              \
    static inline __attribute__((always_inline)) void name##_body HOST_PARAMS(params)

/* Element types into each other (f32, f16, bf16; also a plain copy), rounding to nearest even. The
 * first uses the team, the second is for use inside a host_parallel body. */
void host_convert(host *h, void *dst, dtype dst_type, const void *src, dtype src_type, int64_t n);
void host_convert_serial(host_isa isa, void *dst, dtype dst_type, const void *src, dtype src_type, int64_t n);

/* Runs return nothing: all that can be checked is checked at create. Should a kernel fail all the
 * same (oneDNN short of memory), its output is zeroed and this is true once. */
bool host_failed(host *h);

/* ---- prepared heavy ops: create once per plan, run many times, thread team inside ----
 * host_prim is a compiled primitive for one shape. scratch_bytes(prim) of 64-byte aligned scratch is
 * given at every run. */
typedef struct host_prim host_prim;
void   host_prim_destroy(host_prim *p);
size_t host_prim_scratch(const host_prim *p);
const char *host_prim_impl(const host_prim *p); /* oneDNN's name of what it chose: logs, benches */
size_t host_prim_packed(const host_prim *p);  /* bytes of the packed weight; 0 = takes it as it is */
uint64_t host_prim_layout(const host_prim *p); /* equal for two primitives whose packed weights are the same bytes */

typedef enum host_act { ACT_NONE, ACT_SILU, ACT_GELU_ERF, ACT_GELU_TANH, ACT_QUICK_GELU, ACT_RELU, ACT_COUNT } host_act;

/* y[b] = act(op(a[b]) op(w[b]) + bias) + residual[b].
 *   a [B, M, K] (or [B, K, M] if trans_a), w [B or 1, K, N] (or [.., N, K] if trans_w)
 *   types  a and w of one type f32|f16|bf16; y may differ (f32); bias [N] f32; residual [B, M, N] of y's type */
typedef struct host_matmul_desc {
    int64_t batch, m, n, k; bool trans_a, trans_w, w_shared; /* w_shared: one w for all b */
    dtype in, out; bool bias, residual, packed_w; host_act act;
    /* packed_w: the run gets w packed by host_prim_pack (frozen weights) */
} host_matmul_desc;
status host_matmul_create(host *h, const host_matmul_desc *d, host_prim **out);
void   host_matmul_run(host *h, host_prim *p, const void *a, const void *w, const float *bias,
                       const void *residual, void *y, void *scratch);

/* y = act(conv(x, w) + bias) + residual, NHWC.
 *   x [N, H, W, I], w [O, I, kh, kw] (checkpoint layout, same type as x), y [N, OH, OW, O] same type; bias [O] f32
 * HOST_CONV_BWD_X: (dy, w) -> dx of x's type.   HOST_CONV_BWD_W: (x, dy) -> dw f32 [O, I, kh, kw]. */
typedef enum host_conv_kind { HOST_CONV_FWD, HOST_CONV_BWD_X, HOST_CONV_BWD_W } host_conv_kind;
typedef struct host_conv_desc {
    host_conv_kind kind; int64_t n, h, w, i, o, kh, kw, oh, ow; int stride, pad_t, pad_l, pad_b, pad_r;
    dtype type; bool bias, residual, packed_w; host_act act;
} host_conv_desc;
status host_conv_create(host *h, const host_conv_desc *d, host_prim **out);
/* fwd: a = x, b = w, y = y.  bwd_x: a = dy, b = w, y = dx.  bwd_w: a = x, b = dy, y = dw. */
void   host_conv_run(host *h, host_prim *p, const void *a, const void *b, const float *bias,
                     const void *residual, void *y, void *scratch);
/* Packs checkpoint-layout weights into packed (host_prim_packed bytes); scratch as for run. */
void   host_prim_pack(host *h, host_prim *p, const void *w, void *packed, void *scratch);

/* ---- flash attention; see op/attention.c for the meaning ----
 * One (query entry n, source s) at a time is a list of `n_parts` key/value blocks whose softmax is joint:
 *   out_n = sum_s weight[n,s] * softmax(scale * Q_n [K...]^T + offset + bias) [V...] */
typedef struct host_attention_part { const void *k, *v; int64_t t; /* tokens */ void *dk, *dv; /* f32 [t, heads*kw], accumulated; NULL = not wanted; bwd only */ 
    const float *bias; /* additive tensor for this part or NULL: element (h, i, j) at bias[h*bias_h + i*bias_q + j*bias_k] */
    int64_t bias_h, bias_q, bias_k;
    float offset;      /* added to every score of this part; -INFINITY hides it */
} host_attention_part;
typedef struct host_attention_args {
    dtype type; int heads; int64_t tq, kw; /* kw: head width K */
    float scale; bool causal;
    const void *q; int64_t ld_q;           /* elements between tokens: heads*kw when dense; same for k, v of every part */
    int n_parts; const host_attention_part *part;
    float weight; bool accumulate;         /* y = (accumulate ? y : 0) + weight * attention */
    float *y;                              /* [tq, heads*kw] f32 */
    float *lse;                            /* [heads, tq] log-sum-exp of the scores, natural log; -INFINITY if nothing is seen (output 0) */
    /* backward: y is not written; the following are used */
    const float *dy;                       /* [tq, heads*kw] f32, already times weight */
    const float *delta;                    /* [heads, tq] sum(dy * attention output of this source) */
    float *dq;                             /* [tq, heads*kw] f32, accumulated */
} host_attention_args;
/* Bytes, 64-byte aligned; by type and sizes alone: not by offsets, pointers or values. */
size_t host_attention_scratch(const host *h, const host_attention_args *a, bool backward);
void host_attention_fwd(host *h, const host_attention_args *a, void *scratch);
void host_attention_bwd(host *h, const host_attention_args *a, void *scratch);
