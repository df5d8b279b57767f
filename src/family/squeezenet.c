/* squeezenet.c: SqueezeNet v1.0 in the names of the Deep Compression release: fireN/conv1x1_1
 * squeezes, fireN/conv1x1_2 and fireN/conv3x3_2 expand and are joined in that order. Its input is
 * BGR, 0..255, less the mean colour; as conv1 has no padding, that is folded into its weights once,
 * and pictures go in as they are everywhere else. conv_final has a border of one, where only its
 * bias is, and the mean is over that too. source: Iandola et al. 2016, Han et al. 2016;
 * github.com/songhan/SqueezeNet-Deep-Compression SPDX-License-Identifier: MIT */
#include "family/squeezenet.h"
#include "file/file.h"

static const int squeeze[] = {
    16, 16, 32, 32, 48, 48, 64, 64}; /* fire2 ... fire9; each expands to 4 times as many, twice */
static const float mean_bgr[3] = {104, 117, 123};
enum { K = 7, CONV1 = 96 };

static tensor *fire(nn *m, int i, tensor *x) {
    int s = squeeze[i - 2];
    x = op_relu(m->g, nn_conv2d(m, nn_path(m, "fire%d/conv1x1_1", i), x, s, 1, 1, 0));
    tensor *a = nn_conv2d(m, nn_path(m, "fire%d/conv1x1_2", i), x, 4 * s, 1, 1, 0);
    tensor *b = nn_conv2d(m, nn_path(m, "fire%d/conv3x3_2", i), x, 4 * s, 3, 1, 1);
    return op_relu(m->g, op_concat(m->g, 3, a, b));
}

void squeezenet_features(nn *m, tensor *x, tensor *tap[SQUEEZENET_TAPS]) {
    tap[0] = op_relu(m->g, nn_conv2d(m, "conv1", x, CONV1, K, 2, 0));
    for (int i = 2; i <= 9; i++) {
        x = tap[i - 2];
        if (i == 2 || i == 5 || i == 9)
            x = op_max_pool(m->g, x, .k = 3, .stride = 2, .ceil_mode = 1);
        tap[i - 1] = fire(m, i, x);
    }
}

tensor *squeezenet_logits(nn *m, tensor *const tap[SQUEEZENET_TAPS]) {
    tensor *x = op_relu(m->g, nn_conv2d(m, "conv_final", tap[SQUEEZENET_TAPS - 1], 1000, 1, 1, 1));
    return op_reshape(m->g, op_mean(m->g, x, 1u << 1 | 1u << 2), x->s.d[0], 1000);
}

/* w [96, 3 (BGR), 7, 7] on 0..255 less the mean -> [96, 3 (RGB), 7, 7] on [-1, 1] */
static void fold_input(float *w, float *bias) {
    for (int o = 0; o < CONV1; o++) {
        float *of = w + (size_t)o * 3 * K * K;
        for (int i = 0; i < K * K; i++) {
            for (int c = 0; c < 3; c++) bias[o] += of[c * K * K + i] * (127.5f - mean_bgr[c]);
            float blue = of[i];
            of[i] = 127.5f * of[2 * K * K + i];
            of[K * K + i] *= 127.5f;
            of[2 * K * K + i] = 127.5f * blue;
        }
    }
}

static status read_tensor(const safetensors *f, const param *p, float **out) {
    char seen[96], want[96];
    const safetensor *t = safetensors_find(f, p->name);
    *out = NULL;
    if (!t) return fail(E_FORMAT, "%s: no tensor '%s': not SqueezeNet v1.0", f->path, p->name);
    bool same = t->n_dims == p->s.n;
    for (int i = 0; same && i < t->n_dims; i++) same = t->dim[i] == p->s.d[i];
    if (!same)
        return fail(E_FORMAT, "%s: %s is %s, expected %s", f->path, p->name,
                    safetensor_describe(t, seen, sizeof seen), shape_text(&p->s, want));
    if (!(*out = mem_alloc(sizeof **out * (size_t)safetensor_count(t))))
        return fail(E_HOST_MEMORY, "no host memory for %s", p->name);
    safetensor_read_f32(t, *out);
    return OK;
}

static status fill(params *ps, const safetensors *f) {
    status st = OK;
    float *v = NULL, *bias = NULL;
    TRY(read_tensor(f, params_find(ps, "conv1.weight"), &v));
    TRY(read_tensor(f, params_find(ps, "conv1.bias"), &bias));
    fold_input(v, bias);
    TRY(params_set(ps, "conv1.weight", v, CONV1 * 3 * K * K));
    TRY(params_set(ps, "conv1.bias", bias, CONV1));
    for (int i = 0; i < ps->n; i++) {
        if (strncmp(ps->p[i].name, "conv1.", 6) == 0) continue;
        mem_free(v);
        TRY(read_tensor(f, &ps->p[i], &v));
        TRY(params_set(ps, ps->p[i].name, v, shape_count(&ps->p[i].s)));
    }
out:
    mem_free(v);
    mem_free(bias);
    return st;
}

status squeezenet_load(params *ps, const char *path) {
    status st = OK;
    safetensors *f = NULL;
    tensor *tap[SQUEEZENET_TAPS];
    graph *g = graph_create(ps->dev);
    if (!g) return fail(E_HOST_MEMORY, "no host memory for a graph");
    nn m = {g, ps, NULL};
    ps->declaring = true;
    squeezenet_features(&m, graph_input(g, "x", ps->type, SHAPE(1, 227, 227, 3)), tap);
    squeezenet_logits(&m, tap);
    ps->declaring = false;
    TRY(graph_status(g));
    TRY(safetensors_open(path, &f));
    TRY(params_allocate(ps));
    TRY(fill(ps, f));
out:
    safetensors_close(f);
    graph_destroy(g);
    return st;
}
