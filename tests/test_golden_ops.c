/* test_golden_ops.c: each op family forward and backward against PyTorch, f32, on one device.
 * Golden: tests/golden/make_ops.py; the table below makes imago's call for each case of it.
 * usage: test_golden_ops GOLDEN [device]     exit 77: no such device
 * SPDX-License-Identifier: MIT */
#include "file/file.h"
#include "op/op.h"
#include "test.h"
#include <math.h>
#include <stdio.h>

typedef struct fixture { const char *name; tensor *(*build)(graph *g, tensor **in); unsigned no_grad; double tol; } fixture;

#define BUILD(id, expr) static tensor *b_##id(graph *g, tensor **in) { return expr; }
#define PADS(s, t, l, b, r) ((conv2d_attrs){s, t, l, b, r, ACT_NONE})
BUILD(linear, op_linear(g, in[0], in[1], in[2]))
BUILD(matmul_batched, op_matmul(g, in[0], in[1]))
BUILD(matmul_tn, op_matmul_(g, in[0], in[1], NULL, NULL, (matmul_attrs){.trans_a = 1, .out = DT_COUNT}, HERE))
BUILD(conv3x3, op_conv2d(g, in[0], in[1], in[2], 1, 1))
BUILD(conv3x3_s2_asym, op_conv2d_(g, in[0], in[1], in[2], NULL, PADS(2, 0, 0, 1, 1), HERE))
BUILD(conv1x1, op_conv2d(g, in[0], in[1], in[2], 1, 0))
BUILD(conv2x2, op_conv2d_(g, in[0], in[1], in[2], NULL, PADS(1, 0, 1, 1, 0), HERE))
BUILD(conv7x7, op_conv2d(g, in[0], in[1], in[2], 1, 3))
BUILD(group_norm, op_group_norm(g, in[0], in[1], in[2], 4, 1e-5f, false))
BUILD(group_norm_silu, op_group_norm(g, in[0], in[1], in[2], 2, 1e-6f, true))
BUILD(layer_norm, op_layer_norm(g, in[0], in[1], in[2], 1e-5f))
BUILD(rms_norm, op_rms_norm(g, in[0], in[1], 1e-6f))
BUILD(softmax, op_softmax(g, in[0]))
BUILD(attention, op_attention(g, .heads = 2, .q = in[0], .n_banks = 1, .k = {in[1]}, .v = {in[2]}, .n_sets = 1))
BUILD(attention_cross, op_attention(g, .heads = 4, .q = in[0], .n_banks = 1, .k = {in[1]}, .v = {in[2]}, .n_sets = 1))
BUILD(attention_causal, op_attention(g, .heads = 2, .causal = true, .q = in[0], .n_banks = 1, .k = {in[1]}, .v = {in[2]}, .n_sets = 1))
BUILD(attention_bias, op_attention(g, .heads = 2, .q = in[0], .n_banks = 1, .k = {in[1]}, .v = {in[2]}, .n_sets = 1, .bias = in[3]))
BUILD(silu, op_silu(g, in[0]))
BUILD(gelu, op_gelu(g, in[0]))
BUILD(gelu_tanh, op_gelu_tanh(g, in[0]))
BUILD(quick_gelu, op_quick_gelu(g, in[0]))
BUILD(relu, op_relu(g, in[0]))
BUILD(sigmoid, op_sigmoid(g, in[0]))
BUILD(tanh, op_tanh(g, in[0]))
BUILD(exp, op_exp(g, in[0]))
BUILD(abs, op_abs(g, in[0]))
BUILD(sqrt, op_sqrt(g, in[0]))
BUILD(geglu, op_geglu(g, in[0]))
BUILD(add, op_add(g, in[0], in[1]))
BUILD(sub, op_sub(g, in[0], in[1]))
BUILD(mul, op_mul(g, in[0], in[1]))
BUILD(div, op_div(g, in[0], in[1]))
BUILD(scale, op_affine(g, in[0], 1.5f, -0.25f))
BUILD(clamp, op_clamp(g, in[0], -0.5f, 0.7f))
BUILD(upsample, op_upsample(g, in[0], 7, 9))
BUILD(avg_pool, op_avg_pool(g, in[0], .k = 3, .stride = 2, .pad = 1, .ceil_mode = 1))
BUILD(max_pool, op_max_pool(g, in[0], .k = 3, .stride = 2, .pad = 0, .ceil_mode = 1))
BUILD(pad, op_pad(g, in[0], ((int64_t[MAX_DIMS]){0, 2, 1}), ((int64_t[MAX_DIMS]){0, 3, 0}), 0.5f))
BUILD(concat, op_concat(g, 1, in[0], in[1]))
BUILD(slice, op_slice(g, in[0], 1, 1, 4))
BUILD(transpose, op_transpose(g, in[0], 2, 0, 1))
BUILD(embedding, op_embedding(g, in[0], in[1]))
BUILD(sum, op_sum(g, in[0], 1u | 4u))
BUILD(mean, op_mean(g, in[0], 2u))
BUILD(std, op_std(g, in[0], 2u | 4u))
BUILD(norm2, op_norm2(g, in[0], DIMS_ALL))
BUILD(mse, op_mse(g, in[0], in[1], in[2], in[3]))
BUILD(l1, op_l1(g, in[0], in[1], in[2], in[3]))
BUILD(huber, op_huber(g, in[0], in[1], in[2], in[3], 0.7f))
BUILD(inverse, op_inverse(g, in[0]))
BUILD(solve, op_solve(g, in[0], in[1]))
BUILD(block_matmul, op_block_matmul(g, in[0], in[1], false))
BUILD(time_embedding, op_time_embedding(g, in[0], 32, true, 0.0f))
BUILD(time_embedding_shift, op_time_embedding(g, in[0], 31, false, 1.0f))

#define ROW(id, ...) {#id, b_##id, __VA_ARGS__}
static const fixture fixtures[] = {
    ROW(linear, 0, 0), ROW(matmul_batched, 0, 0), ROW(matmul_tn, 0, 0), ROW(conv3x3, 0, 0), ROW(conv3x3_s2_asym, 0, 0),
    ROW(conv1x1, 0, 0), ROW(conv2x2, 0, 0), ROW(conv7x7, 0, 0), ROW(group_norm, 0, 0), ROW(group_norm_silu, 0, 0),
    ROW(layer_norm, 0, 0), ROW(rms_norm, 0, 0), ROW(softmax, 0, 0), ROW(attention, 0, 0), ROW(attention_cross, 0, 0),
    ROW(attention_causal, 0, 0), ROW(attention_bias, 8, 0), ROW(silu, 0, 0), ROW(gelu, 0, 0), ROW(gelu_tanh, 0, 0),
    ROW(quick_gelu, 0, 0), ROW(relu, 0, 0), ROW(sigmoid, 0, 0), ROW(tanh, 0, 0), ROW(exp, 0, 0), ROW(abs, 0, 0),
    ROW(sqrt, 0, 0), ROW(geglu, 0, 0), ROW(add, 0, 0), ROW(sub, 0, 0), ROW(mul, 0, 0), ROW(div, 0, 0), ROW(scale, 0, 0),
    ROW(clamp, 0, 0), ROW(upsample, 0, 0), ROW(avg_pool, 0, 0), ROW(max_pool, 0, 0), ROW(pad, 0, 0), ROW(concat, 0, 0),
    ROW(slice, 0, 0), ROW(transpose, 0, 0), ROW(embedding, 0, 0), ROW(sum, 0, 0), ROW(mean, 0, 0), ROW(std, 0, 0),
    ROW(norm2, 0, 0), ROW(mse, 12, 0), ROW(l1, 12, 0), ROW(huber, 12, 0), ROW(inverse, 0, 1e-4), ROW(solve, 0, 1e-4),
    ROW(block_matmul, 0, 0), ROW(time_embedding, 1, 1e-4), ROW(time_embedding_shift, 1, 1e-4)};


static const safetensor *entry(const safetensors *f, const char *name, const char *part, int k) {
    char key[96];
    if (k < 0) snprintf(key, sizeof key, "%s.%s", name, part);
    else snprintf(key, sizeof key, "%s.%s%d", name, part, k);
    return safetensors_find(f, key);
}

static void expect(const fixture *x, plan *p, const char *output, const safetensor *want, const char *dev) {
    int64_t n = 1;
    for (int i = 0; i < want->n_dims; i++) n *= want->dim[i];
    float *got = mem_alloc((size_t)n * 4);
    const float *w = want->data;
    double worst = 0, size = 1e-6;
    if (plan_read_f32(p, output, got) != OK) got[0] = NAN;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)got[i] - (double)w[i]);
        if (!(e <= worst)) worst = e;
        size = fmax(size, fabs((double)w[i]));
    }
    if (!(worst <= size * (x->tol > 0 ? x->tol : 2e-5))) {
        g_failures++;
        printf("FAIL %s %s on %s: error %g of size %g\n", x->name, output, dev, worst, size);
    }
    mem_free(got);
}

static status run(const fixture *x, const safetensors *f, device *dev) {
    status st = OK;
    plan *p = NULL;
    tensor *in[4] = {0}, *want[4], *grad[4];
    int which[4], n = 0, n_in = 0;
    graph *g = graph_create(dev);
    const safetensor *dy = entry(f, x->name, "dy", -1), *out = entry(f, x->name, "out", -1);
    if (!out) return graph_destroy(g), fail(E_FORMAT, "the golden has no case %s", x->name);
    for (const safetensor *t; n_in < 4 && (t = entry(f, x->name, "in", n_in)); n_in++) {
        char name[16];
        shape s = {.n = t->n_dims};
        for (int i = 0; i < t->n_dims; i++) s.d[i] = t->dim[i];
        snprintf(name, sizeof name, "in%d", n_in);
        in[n_in] = graph_input(g, name, t->dtype == DT_F32 ? DT_F32 : DT_U32, s);
        if (!entry(f, x->name, "g", n_in) || x->no_grad >> n_in & 1) continue;
        which[n] = n_in;
        want[n++] = in[n_in];
    }
    tensor *y = x->build(g, in);
    graph_output(g, y, "out");
    if (dy) {
        tensor *r = graph_input(g, "dy", DT_F32, y->s);
        tensor *loss = op_reshape(g, op_sum(g, op_mul(g, y, r), DIMS_ALL), 1);
        graph_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1), want, n, grad, false);
        for (int k = 0; k < n; k++) {
            char name[16];
            snprintf(name, sizeof name, "g%d", which[k]);
            if (!grad[k]) graph_fail(g, HERE, E_FORMAT, "%s: no gradient to input %d", x->name, which[k]);
            else graph_output(g, op_scale(g, grad[k], 1), name);
        }
    }
    TRY(graph_compile(g, NULL, &p));
    for (int k = 0; k < n_in; k++) {
        char name[16];
        snprintf(name, sizeof name, "in%d", k);
        TRY(plan_write(p, name, entry(f, x->name, "in", k)->data));
    }
    if (dy) TRY(plan_write(p, "dy", dy->data));
    TRY(plan_run(p, NULL, NULL));
    expect(x, p, "out", out, device_id(dev));
    for (int k = 0; k < n; k++) {
        char name[16];
        snprintf(name, sizeof name, "g%d", which[k]);
        expect(x, p, name, entry(f, x->name, "g", which[k]), device_id(dev));
    }
out:
    plan_destroy(p);
    return st;
}

/* Three optimiser steps with given gradients. */
static status run_adamw(const safetensors *f, device *dev) {
    static const fixture x = {"adamw", NULL, 0, 1e-6};
    status st = OK;
    plan *p = NULL;
    array *a[4] = {0};
    static const char *const names[] = {"p", "grad", "m", "v"};
    for (int i = 0; i < 4; i++) TRY(array_create(dev, REGION_STATE, DT_F32, SHAPE(33), names[i], &a[i]));
    TRY(array_write(a[0], entry(f, "adamw", "p", -1)->data));
    graph *g = graph_create(dev);
    tensor *t[4], *hyper = graph_input(g, "hyper", DT_F32, SHAPE(6));
    for (int i = 0; i < 4; i++) t[i] = graph_array(g, a[i]);
    op_adamw(g, t[0], t[1], t[2], t[3], hyper, NULL, NULL, NULL);
    graph_output(g, op_scale(g, t[0], 1), "out");
    TRY(graph_compile(g, NULL, &p));
    for (int i = 0; i < 3; i++) {
        TRY(array_write(a[1], entry(f, "adamw", "grad", i)->data));
        TRY(plan_write(p, "hyper", (float[]){0.01f, 0.9f, 0.99f, 1e-8f, 0.1f, (float)(i + 1)}));
        TRY(plan_run(p, NULL, NULL));
    }
    expect(&x, p, "out", entry(f, "adamw", "out", -1), device_id(dev));
out:
    plan_destroy(p);
    for (int i = 0; i < 4; i++) array_destroy(a[i]);
    return st;
}

int main(int argc, char **argv) {
    device *dev = NULL;
    safetensors *f = NULL;
    if (argc < 2) return printf("usage: test_golden_ops GOLDEN [device]\n"), 2;
    status st = device_open(&op_all, &(device_params){.name = argc > 2 ? argv[2] : "cpu", .validation = TEST_VALIDATION}, &dev);
    if (st != OK) return printf("skipped: %s\n", error_message()), st == E_UNSUPPORTED ? 77 : 1;
    if (safetensors_open(argv[1], &f) != OK) return printf("FAIL %s\n", error_message()), 1;
    for (size_t i = 0; i < ARRAY_LEN(fixtures); i++)
        if (run(&fixtures[i], f, dev) != OK) g_failures++, printf("FAIL %s: %s\n", fixtures[i].name, error_message());
    if (run_adamw(f, dev) != OK) g_failures++, printf("FAIL adamw: %s\n", error_message());
    if (device_validation_errors(dev)) g_failures++, printf("FAIL the validation layer has complaints\n");
    printf("%zu op fixtures by PyTorch on %s: %d failures\n", ARRAY_LEN(fixtures) + 1, device_id(dev), g_failures);
    safetensors_close(f);
    device_close(dev);
    return g_failures ? 1 : 0;
}
