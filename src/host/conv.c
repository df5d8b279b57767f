/* conv.c: host_conv as oneDNN convolutions. oneDNN names the dims N, C, H, W whatever the memory
 * is; the strides say NHWC and OIHW. SPDX-License-Identifier: MIT */
#include "host/onednn.h"

static dn_layout image(int64_t n, int64_t h, int64_t w, int64_t c, dtype t) {
    return (dn_layout){4, {n, c, h, w}, {h * w * c, 1, w * c, c}, t};
}

static dn_layout weight(int64_t o, int64_t i, int64_t kh, int64_t kw, dtype t) {
    return (dn_layout){4, {o, i, kh, kw}, {i * kh * kw, kh * kw, kw, 1}, t};
}

static bool bad(int64_t v) { return v < 1 || v > INT32_MAX; }

static status check(const host_conv_desc *d) {
    bool sizes = bad(d->n) || bad(d->h) || bad(d->w) || bad(d->i) || bad(d->o) || bad(d->kh) ||
                 bad(d->kw) || bad(d->stride) || d->type > DT_BF16 || d->act >= ACT_COUNT ||
                 d->pad_t < 0 || d->pad_l < 0 || d->pad_b < 0 || d->pad_r < 0;
    if (sizes)
        return fail(E_SHAPE,
                    "conv2d: x [%lld, %lld, %lld, %lld], w [%lld, %lld, %lld, %lld], "
                    "stride %d, %s: sizes must be 1 to 2^31 - 1, pads not negative, and the type "
                    "f32, f16 or bf16",
                    (long long)d->n, (long long)d->h, (long long)d->w, (long long)d->i,
                    (long long)d->o, (long long)d->i, (long long)d->kh, (long long)d->kw, d->stride,
                    dtype_name(d->type));
    int64_t hp = d->h + d->pad_t + d->pad_b, wp = d->w + d->pad_l + d->pad_r;
    int64_t oh = (hp - d->kh) / d->stride + 1, ow = (wp - d->kw) / d->stride + 1;
    if (hp < d->kh || wp < d->kw || oh != d->oh || ow != d->ow)
        return fail(E_SHAPE,
                    "conv2d: kernel %lldx%lld, stride %d over %lldx%lld (padded) gives "
                    "%lldx%lld, not %lldx%lld",
                    (long long)d->kh, (long long)d->kw, d->stride, (long long)hp, (long long)wp,
                    hp < d->kh ? 0LL : (long long)oh, wp < d->kw ? 0LL : (long long)ow,
                    (long long)d->oh, (long long)d->ow);
    if (d->kind != HOST_CONV_FWD && (d->bias || d->residual || d->act != ACT_NONE))
        return fail(E_UNSUPPORTED, "conv2d: bias, residual and activation belong to the forward");
    return OK;
}

/* Is there a kernel column that meets the image in no window? oneDNN 2.6.3's AMX weight gradient
 * then leaves its element undefined if there is a stride. */
static bool idle_column(const host_conv_desc *d) {
    for (int64_t v = 0; v < d->kw; v++) {
        int64_t c = 0;
        while (c < d->ow && (c * d->stride + v < d->pad_l || c * d->stride + v >= d->pad_l + d->w))
            c++;
        if (c == d->ow) return true;
    }
    return false;
}

/* A 1x1 convolution over every pixel is a matmul over [N*H*W, channels]: measured equal forward,
 * and two to four times as fast for the gradients. */
static bool is_matmul(const host_conv_desc *d) {
    return d->kh == 1 && d->kw == 1 && d->stride == 1 && d->oh == d->h && d->ow == d->w &&
           d->pad_t == 0 && d->pad_l == 0 && d->n <= INT32_MAX / d->h / d->w;
}

static dn_spec matmul_spec(const host_conv_desc *d) {
    dn_spec s = {.kind = DN_MATMUL, .act = d->act, .residual = d->residual};
    int64_t pixels = d->n * d->h * d->w;
    dn_layout x = dn_matrix(1, pixels, d->i, false, d->type, false);
    dn_layout y = dn_matrix(1, pixels, d->o, false, d->type, false);
    switch (d->kind) {
    case HOST_CONV_FWD:
        s.a = x, s.y = y, s.b = dn_matrix(1, d->i, d->o, true, d->type, false);
        break;
    case HOST_CONV_BWD_X:
        s.a = y, s.y = x, s.b = dn_matrix(1, d->o, d->i, false, d->type, false);
        break;
    case HOST_CONV_BWD_W: /* dw = dy^T x */
        s.a = dn_matrix(1, d->o, pixels, true, d->type, false), s.b = x, s.swap = true;
        s.y = dn_matrix(1, d->o, d->i, false, DT_F32, false);
        break;
    }
    s.packed_b = s.b_any = d->packed_w && d->kind != HOST_CONV_BWD_W;
    if (d->bias) s.bias = dn_matrix(1, 1, d->o, false, DT_F32, false);
    return s;
}

static dn_spec conv_spec(const host_conv_desc *d) {
    dn_layout x = image(d->n, d->h, d->w, d->i, d->type);
    dn_layout y = image(d->n, d->oh, d->ow, d->o, d->type);
    dn_spec s = {.act = d->act,
                 .residual = d->residual,
                 .stride = {d->stride, d->stride},
                 .pad_l = {d->pad_t, d->pad_l}};
    /* The padding that ends exactly at the last window: negative where rows are left over. */
    s.pad_r[0] = (d->oh - 1) * d->stride + d->kh - d->h - d->pad_t;
    s.pad_r[1] = (d->ow - 1) * d->stride + d->kw - d->w - d->pad_l;
    switch (d->kind) {
    case HOST_CONV_FWD:
        s.kind = DN_CONV_FWD, s.a = x, s.y = y;
        break;
    case HOST_CONV_BWD_X:
        s.kind = DN_CONV_BWD_X, s.a = y, s.y = x;
        break;
    case HOST_CONV_BWD_W:
        s.kind = DN_CONV_BWD_W, s.a = x, s.b = y;
        break;
    }
    if (d->kind == HOST_CONV_BWD_W) {
        s.y = weight(d->o, d->i, d->kh, d->kw, DT_F32);
        s.y_any = true;
        s.wide = d->stride > 1 && idle_column(d);
    } else {
        s.b = weight(d->o, d->i, d->kh, d->kw, d->type);
        s.b_any = true;
        s.packed_b = d->packed_w;
    }
    if (d->bias) s.bias = (dn_layout){1, {d->o}, {1}, DT_F32};
    return s;
}

status host_conv_create(host *h, const host_conv_desc *d, host_prim **out) {
    *out = NULL;
    status st = check(d);
    if (st != OK) return st;
    dn_spec s = is_matmul(d) ? matmul_spec(d) : conv_spec(d);
    return dn_prim_create(h, &s, out);
}

void host_conv_run(host *h, host_prim *p, const void *a, const void *b, const float *bias,
                   const void *residual, void *y, void *scratch) {
    dn_prim_run(h, p, a, b, bias, residual, y, scratch);
}
