/* test_families.c: UNets, autoencoders and text encoders of odd shapes against diffusers and transformers: parameter
 * names, outputs (f32; f16 and bf16 on the cpu within twice PyTorch's own bf16 error) and gradients towards every
 * weight; text given as keys and values; full-size networks by name; and TAEF2 with its real weights.
 * Golden: tests/golden/make_families.py, which says how weights and inputs are filled.
 * usage: test_families GOLDEN_DIR [device]     exit 77: no such device
 * SPDX-License-Identifier: MIT */
#include "family/text_encoder.h"
#include "family/unet.h"
#include "family/vae.h"
#include "file/file.h"
#include "train/train.h"
#include "test.h"
#include <math.h>

typedef enum body { UNET, ENCODE, DECODE, CLIP } body;
typedef struct net { const unet_config *unet; const vae_config *vae; const text_config *text; } net;

/* n, h, w: of the latent, as in the maker. */
typedef struct test_case { const char *name; body what; net of; bool grads; int n, h, w, tokens, skip, extra; } test_case;

#define UNET_COMMON .out_channels = 4, .flip_sin_to_cos = true
static const unet_config sd1 = {UNET_COMMON, .in_channels = 4, .levels = 4, .layers_per_block = 2, .block_out_channels = {16, 24, 32, 32},
    .attention = {true, true, true, false}, .heads = {2, 2, 2, 2}, .cross_attention_dim = 20, .norm_num_groups = 4, .norm_eps = 1e-5f};
static const unet_config sd2 = {UNET_COMMON, .in_channels = 4, .levels = 3, .layers_per_block = 1, .block_out_channels = {8, 16, 32},
    .attention = {true, true, false}, .heads = {1, 2, 4}, .cross_attention_dim = 12, .norm_num_groups = 4, .norm_eps = 1e-5f, .use_linear_projection = true};
static const unet_config gap = {UNET_COMMON, .in_channels = 4, .levels = 3, .layers_per_block = 2, .block_out_channels = {12, 24, 24},
    .attention = {true, false, true}, .heads = {3, 2, 1}, .transformer_layers = {2, 1, 3}, .cross_attention_dim = 8, .norm_num_groups = 3, .norm_eps = 1e-5f};
static const unet_config lcm = {.in_channels = 9, .out_channels = 4, .levels = 1, .layers_per_block = 1, .block_out_channels = {8}, .attention = {true},
    .heads = {2}, .cross_attention_dim = 8, .norm_num_groups = 2, .norm_eps = 1e-6f, .freq_shift = 1, .time_cond_proj_dim = 12};
static const unet_config deep = {UNET_COMMON, .in_channels = 4, .levels = 6, .layers_per_block = 1, .block_out_channels = {4, 4, 8, 8, 8, 8},
    .attention = {false, false, true, false, false, true}, .heads = {1, 1, 1, 1, 1, 1}, .cross_attention_dim = 8, .norm_num_groups = 2, .norm_eps = 1e-5f,
    .use_linear_projection = true};
static const vae_config kl = {.kind = VAE_KL, .in_channels = 3, .out_channels = 3, .latent_channels = 3, .levels = 3, .block_out_channels = {8, 16, 16},
    .layers_per_block = 1, .norm_num_groups = 4, .use_quant_conv = true, .use_post_quant_conv = true, .mid_block_add_attention = true};
static const vae_config kl_plain = {.kind = VAE_KL, .in_channels = 3, .out_channels = 3, .latent_channels = 4, .levels = 2, .block_out_channels = {8, 12},
    .layers_per_block = 2, .norm_num_groups = 2};
#define TINY .kind = VAE_TINY, .in_channels = 3, .out_channels = 3, .upsampling_scaling_factor = 2
static const vae_config tiny = {TINY, .latent_channels = 5, .levels = 3, .block_out_channels = {8, 8, 8}, .encoder_block_out_channels = {8, 8, 8},
    .num_encoder_blocks = {1, 2, 1}, .num_decoder_blocks = {2, 1, 1}};
#define TAE TINY, .levels = 4, .block_out_channels = {64, 64, 64, 64}, .encoder_block_out_channels = {64, 64, 64, 64}, \
    .num_encoder_blocks = {1, 3, 3, 3}, .num_decoder_blocks = {3, 3, 3, 1}
static const vae_config taesd = {TAE, .latent_channels = 4}, taef2 = {TAE, .latent_channels = 32, .pool_groups = 4};
static const text_config clip = {50, 32, 56, 3, 2, 16, ACT_QUICK_GELU, 1e-5f}, clip_gelu = {50, 32, 56, 4, 4, 16, ACT_GELU_ERF, 1e-6f};

static const test_case cases[] = {
    {"unet_sd1", UNET, {.unet = &sd1}, true, 2, 12, 10, .tokens = 7},
    {"unet_sd2", UNET, {.unet = &sd2}, true, 1, 7, 5, .tokens = 9},
    {"unet_gap", UNET, {.unet = &gap}, false, 2, 9, 6, .tokens = 5},
    {"unet_lcm", UNET, {.unet = &lcm}, true, 2, 3, 4, .tokens = 4},
    {"unet_deep", UNET, {.unet = &deep}, false, 1, 33, 32, .tokens = 3},
    {"kl_encode", ENCODE, {.vae = &kl}, true, 1, 5, 3},
    {"kl_decode", DECODE, {.vae = &kl}, true, 1, 5, 3},
    {"kl_plain_encode", ENCODE, {.vae = &kl_plain}, false, 2, 3, 7},
    {"kl_plain_decode", DECODE, {.vae = &kl_plain}, false, 2, 3, 7},
    {"tiny_encode", ENCODE, {.vae = &tiny}, true, 2, 3, 5},
    {"tiny_decode", DECODE, {.vae = &tiny}, true, 2, 3, 5},
    {"clip_quick", CLIP, {.text = &clip}, true, 2, .tokens = 16},
    {"clip_extra", CLIP, {.text = &clip}, true, 2, .tokens = 11, .skip = 1, .extra = 9},
    {"clip_gelu", CLIP, {.text = &clip_gelu}, false, 1, .tokens = 9, .skip = 2},
};

static const unet_config sd1_full = {UNET_COMMON, .in_channels = 4, .levels = 4, .layers_per_block = 2, .block_out_channels = {320, 640, 1280, 1280},
    .attention = {true, true, true, false}, .heads = {8, 8, 8, 8}, .cross_attention_dim = 768, .norm_num_groups = 32, .norm_eps = 1e-5f};
static const unet_config sd2_full = {UNET_COMMON, .in_channels = 4, .levels = 4, .layers_per_block = 2, .block_out_channels = {320, 640, 1280, 1280},
    .attention = {true, true, true, false}, .heads = {5, 10, 20, 20}, .cross_attention_dim = 1024, .norm_num_groups = 32, .norm_eps = 1e-5f,
    .use_linear_projection = true};
static const vae_config vae_full = {.kind = VAE_KL, .in_channels = 3, .out_channels = 3, .latent_channels = 4, .levels = 4,
    .block_out_channels = {128, 256, 512, 512}, .layers_per_block = 2, .norm_num_groups = 32, .use_quant_conv = true, .use_post_quant_conv = true,
    .mid_block_add_attention = true};
static const text_config clip_l = {49408, 768, 3072, 12, 12, 77, ACT_QUICK_GELU, 1e-5f}, clip_h = {49408, 1024, 4096, 23, 16, 77, ACT_GELU_ERF, 1e-5f};
static const struct { const char *name; net of; } sizes[] = {
    {"size.sd1_unet", {.unet = &sd1_full}}, {"size.sd2_unet", {.unet = &sd2_full}}, {"size.vae", {.vae = &vae_full}},
    {"size.taesd", {.vae = &taesd}}, {"size.clip_l", {.text = &clip_l}}, {"size.clip_h", {.text = &clip_h}}};

/* ---- the maker's fill ---- */

static uint32_t fnv(uint32_t h, const char *s) {
    for (; *s; s++) h = (h ^ (uint8_t)*s) * 16777619u;
    return h;
}

static uint32_t mix(const char *name, uint32_t i) {
    uint32_t x = fnv(2166136261u, name) + i * 0x9e3779b1u;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
}

static float *filled(const char *name, int64_t n, double scale, double offset) {
    float *v = mem_alloc((size_t)n * sizeof *v);
    REQUIRE(v);
    for (int64_t i = 0; i < n; i++) v[i] = (float)((2 * ((mix(name, (uint32_t)i) >> 8) * 0x1p-24) - 1) * scale + offset);
    return v;
}

static float *filled_param(const param *p) {
    int64_t n = shape_count(&p->s);
    size_t k = strlen(p->name);
    bool norm = k > 7 && strcmp(p->name + k - 7, ".weight") == 0;
    if (p->s.n > 1) return filled(p->name, n, sqrt(3 / ((double)n / (double)p->s.d[0])), 0);
    return norm ? filled(p->name, n, 0.2, 1) : filled(p->name, n, 0.1, 0);
}

/* ---- the golden ---- */

static const safetensor *gold(const safetensors *f, const char *name, const char *what) {
    char full[96];
    snprintf(full, sizeof full, "%s%s", name, what);
    const safetensor *t = safetensors_find(f, full);
    if (!t) printf("FAIL: the golden lacks %s\n", full);
    REQUIRE(t);
    return t;
}

static int by_name(const void *a, const void *b) {
    const param *const *p = a, *const *q = b;
    return strcmp((*p)->name, (*q)->name);
}

/* The parameters sorted by name (mem_free), but for the test's own. */
static const param **sorted(const params *ps, int *n) {
    const param **p = mem_alloc(sizeof *p * (size_t)(ps->n + 1));
    REQUIRE(p);
    *n = 0;
    for (int i = 0; i < ps->n; i++)
        if (strcmp(ps->p[i].name, "extra") != 0) p[(*n)++] = &ps->p[i];
    qsort(p, (size_t)*n, sizeof *p, by_name);
    return p;
}

static uint32_t names_hash(const params *ps, int *n) {
    const param **p = sorted(ps, n);
    uint32_t h = 2166136261u;
    for (int i = 0; i < *n; i++) {
        char text[32];
        h = fnv(fnv(h, p[i]->name), " ");
        for (int k = 0; k < p[i]->s.n; k++) {
            snprintf(text, sizeof text, k ? "x%lld" : "%lld", (long long)p[i]->s.d[k]);
            h = fnv(h, text);
        }
        h = fnv(h, "\n");
    }
    mem_free(p);
    return h;
}

static status declare(params *ps, const net *of) {
    return of->unet ? unet_declare(ps, of->unet, NULL) : of->vae ? vae_declare(ps, of->vae) : text_declare(ps, of->text, NULL);
}

static void check_sizes(device *dev, const safetensors *f) {
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        params ps;
        params_init(&ps, dev, DT_F16);
        const safetensor *want = gold(f, sizes[i].name, "");
        REQUIRE_OK(declare(&ps, &sizes[i].of));
        int n = 0;
        uint32_t hash = names_hash(&ps, &n);
        CHECK((double)n == safetensor_load(want, 0) && (double)hash == safetensor_load(want, 1),
              "%s has %d parameters, diffusers %.0f; or names or shapes differ", sizes[i].name, n, safetensor_load(want, 0));
        params_fini(&ps);
    }
}

/* ---- one case ---- */

static tensor *input(graph *g, const char *name, shape s, dtype t) { return op_cast(g, graph_input(g, name, DT_F32, s), t); }

static tensor *record_unet(nn *m, const test_case *c, bool given) {
    const unet_config *u = c->of.unet;
    dtype type = m->ps->type;
    tensor *x = input(m->g, "x", SHAPE(c->n, c->h, c->w, u->in_channels), type), *t = graph_input(m->g, "t", DT_F32, SHAPE(c->n));
    tensor *guidance = u->time_cond_proj_dim ? input(m->g, "guidance", SHAPE(c->n, u->time_cond_proj_dim), type) : NULL;
    unet_text text = {.context = input(m->g, "context", SHAPE(c->n, c->tokens, u->cross_attention_dim), type)};
    if (!given) return unet_denoise(m, u, x, t, &text, guidance);
    unet_context(m, u, text.context, text.k, text.v);
    text.context = NULL;
    return unet_denoise(m, u, x, t, &text, guidance);
}

/* given: the text as keys and values (UNets). */
static tensor *record(nn *m, const test_case *c, bool given) {
    graph *g = m->g;
    const vae_config *v = c->of.vae;
    int f = v ? vae_factor(v) : 1;
    switch (c->what) {
    case UNET: return record_unet(m, c, given);
    case ENCODE: return vae_encode(m, v, input(g, "image", SHAPE(c->n, c->h * f, c->w * f, 3), m->ps->type));
    case DECODE: return vae_decode(m, v, input(g, "latent", SHAPE(c->n, c->h, c->w, v->latent_channels), m->ps->type));
    case CLIP: break;
    }
    tensor *ids = graph_input(g, "ids", DT_U32, SHAPE(c->n, c->tokens));
    if (!c->extra) return text_encode(m, c->of.text, ids, NULL, c->skip);
    text_extra e = {params_tensor(m->ps, g, "extra", HERE), graph_input(g, "pick", DT_U32, SHAPE(c->n, c->tokens))};
    return text_encode(m, c->of.text, ids, &e, c->skip);
}

static void write_signal(plan *p, const char *name, int64_t n) {
    float *v = filled(name, n, sqrt(3), 0);
    REQUIRE_OK(plan_write(p, name, v));
    mem_free(v);
}

static void write_inputs(plan *p, const test_case *c) {
    const unet_config *u = c->of.unet;
    int64_t cells = (int64_t)c->n * c->h * c->w, tokens = (int64_t)c->n * c->tokens;
    if (u) {
        write_signal(p, "x", cells * u->in_channels);
        write_signal(p, "context", tokens * u->cross_attention_dim);
        REQUIRE_OK(plan_write(p, "t", (float[]){13, 871}));
        if (u->time_cond_proj_dim) write_signal(p, "guidance", (int64_t)c->n * u->time_cond_proj_dim);
    }
    if (c->what == ENCODE) write_signal(p, "image", cells * vae_factor(c->of.vae) * vae_factor(c->of.vae) * 3);
    if (c->what == DECODE) write_signal(p, "latent", cells * c->of.vae->latent_channels);
    if (c->what == CLIP) {
        uint32_t ids[64], pick[64];
        for (uint32_t i = 0; i < tokens; i++) ids[i] = mix("ids", i) % (uint32_t)(c->of.text->vocab_size + c->extra);
        REQUIRE_OK(plan_write(p, "ids", ids));
        text_extra_pick(c->of.text, ids, tokens, pick);
        if (c->extra) REQUIRE_OK(plan_write(p, "pick", pick));
    }
}

static void load(params *ps) {
    for (int i = 0; i < ps->n; i++) {
        bool extra = strcmp(ps->p[i].name, "extra") == 0;
        int64_t n = shape_count(&ps->p[i].s);
        float *v = extra ? filled("extra", n, sqrt(3), 0) : filled_param(&ps->p[i]);
        REQUIRE_OK(params_set(ps, ps->p[i].name, v, n));
        mem_free(v);
    }
}

static void check_output(plan *p, const char *output, const test_case *c, const safetensors *f, dtype type) {
    const safetensor *want = gold(f, c->name, ".out");
    int64_t n = safetensor_count(want);
    float *y = mem_alloc((size_t)n * sizeof *y);
    REQUIRE(y);
    REQUIRE_OK(plan_read_f32(p, output, y));
    double worst = 0, size = 0, limit = type == DT_F32 ? 2e-5 : 2 * safetensor_load(gold(f, c->name, ".bf16"), 0);
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)y[i] - safetensor_load(want, i));
        worst = isnan(d) ? INFINITY : fmax(worst, d);
        size = fmax(size, fabs(safetensor_load(want, i)));
    }
    CHECK(worst <= limit * size, "%s %s %s: off by %g of the largest element, at most %g", c->name, output, dtype_name(type), worst / size, limit);
    if (type != DT_F32) printf("%s %s: %.2f of PyTorch's bf16 error\n", c->name, dtype_name(type), 2 * worst / size / limit);
    mem_free(y);
}

/* want: eight elements and the norm. The unit of error is the gradient's root mean square, but not less than a
 * hundredth of the network's: the gradient of a key's bias is zero but for rounding. */
static void check_gradient(const test_case *c, const param *p, const safetensor *want, int row, double floor) {
    int64_t n = shape_count(&p->s);
    float *got = mem_alloc((size_t)n * sizeof *got);
    REQUIRE(got);
    REQUIRE_OK(array_read(p->grad, got));
    double norm = 0, worst = 0, want_norm = safetensor_load(want, row * 9 + 8), unit = fmax(want_norm / sqrt((double)n), floor);
    for (int64_t i = 0; i < n; i++) norm += (double)got[i] * (double)got[i];
    for (uint32_t k = 0; k < 8; k++) {
        double w = safetensor_load(want, row * 9 + (int64_t)k), d = fabs((double)got[mix(p->name, k) % n] - w);
        worst = isnan(d) ? INFINITY : fmax(worst, d / fmax(unit, fabs(w)));
    }
    CHECK(worst < 1e-4, "%s: gradient of %s off by %g", c->name, p->name, worst);
    CHECK(fabs(sqrt(norm) - want_norm) < 1e-4 * unit * sqrt((double)n), "%s: gradient of %s has norm %g, not %g", c->name, p->name, sqrt(norm), want_norm);
    mem_free(got);
}

static void check_gradients(const test_case *c, params *ps, const safetensors *f) {
    const safetensor *want = gold(f, c->name, ".grads");
    int n = 0;
    const param **p = sorted(ps, &n);
    double sum = 0, elems = (double)params_count(ps, true);
    REQUIRE_EQ(safetensor_count(want), 9 * n);
    for (int i = 0; i < n; i++) sum += pow(safetensor_load(want, i * 9 + 8), 2);
    for (int i = 0; i < n; i++) check_gradient(c, p[i], want, i, 1e-2 * sqrt(sum / elems));
    mem_free(p);
    if (!c->extra) return;
    want = gold(f, c->name, ".extra_grad");
    float got[512];
    REQUIRE(safetensor_count(want) <= (int64_t)ARRAY_LEN(got));
    REQUIRE_OK(array_read(params_find(ps, "extra")->grad, got));
    for (int64_t i = 0; i < safetensor_count(want); i++)
        CHECK(fabs((double)got[i] - safetensor_load(want, i)) < 1e-4 * fmax(1, fabs(safetensor_load(want, i))), "%s: gradient of the learned rows at %lld: %g, not %g",
              c->name, (long long)i, (double)got[i], safetensor_load(want, i));
}

static void run_case(device *dev, const safetensors *f, const test_case *c, dtype type) {
    params ps;
    plan *p = NULL;
    int n = 0;
    bool grads = c->grads && type == DT_F32;
    params_init(&ps, dev, type);
    REQUIRE_OK(declare(&ps, &c->of));
    CHECK((double)names_hash(&ps, &n) == safetensor_load(gold(f, c->name, ".names"), 0), "%s: names or shapes of parameters differ", c->name);
    if (c->extra) REQUIRE_OK(params_declare(&ps, "extra", SHAPE(c->extra, c->of.text->hidden_size), false));
    for (int i = 0; i < ps.n; i++) ps.p[i].trainable = grads;
    REQUIRE_OK(params_allocate(&ps));
    load(&ps);
    graph *g = graph_create(dev);
    REQUIRE(g);
    nn m = {g, &ps, NULL};
    tensor *y = record(&m, c, false);
    graph_output(g, y, "y");
    if (grads) {
        tensor *loss = op_reshape(g, op_sum(g, op_mul(g, y, graph_input(g, "projection", DT_F32, y->s)), DIMS_ALL), 1);
        train_backward(g, loss, op_fill(g, DT_F32, SHAPE(1), 1.0f), (params *[]){&ps}, 1, true);
    }
    int64_t count = tensor_count(y);
    REQUIRE_OK(graph_compile(g, &(plan_params){.label = c->name}, &p));
    write_inputs(p, c);
    if (grads) write_signal(p, "projection", count);
    REQUIRE_OK(plan_run(p, NULL, NULL));
    check_output(p, "y", c, f, type);
    if (grads) check_gradients(c, &ps, f);
    plan_destroy(p);
    if (c->what == UNET && type == DT_F32) {
        m.g = g = graph_create(dev);
        REQUIRE(g);
        graph_output(g, record(&m, c, true), "y from keys and values");
        REQUIRE_OK(graph_compile(g, NULL, &p));
        write_inputs(p, c);
        REQUIRE_OK(plan_run(p, NULL, NULL));
        check_output(p, "y from keys and values", c, f, type);
        plan_destroy(p);
    }
    params_fini(&ps);
}

/* ---- TAEF2: real weights, in the names of the author's nn.Sequential ---- */

static safetensors *open_in(const char *dir, const char *file) {
    char path[1024];
    safetensors *f = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    REQUIRE_OK(safetensors_open(path, &f));
    return f;
}

static void load_taef2(params *ps, const safetensors *f, const char *prefix, int shift) {
    for (int64_t i = 0; i < f->n; i++) {
        char name[200], *rest;
        long layer = strtol(f->tensor[i].name, &rest, 10);
        snprintf(name, sizeof name, "%s.layers.%ld%s", prefix, layer - shift, rest);
        float *v = mem_alloc((size_t)safetensor_count(&f->tensor[i]) * sizeof *v);
        REQUIRE(v);
        safetensor_read_f32(&f->tensor[i], v);
        REQUIRE_OK(params_set(ps, name, v, safetensor_count(&f->tensor[i])));
        mem_free(v);
    }
}

/* Worst difference of an NHWC output a*y + b from an NCHW golden. */
static double taef2_error(plan *p, const char *output, const safetensor *want, double a, double b) {
    int64_t ch = want->dim[1], cells = want->dim[2] * want->dim[3];
    float *y = mem_alloc((size_t)(ch * cells) * sizeof *y);
    double worst = 0;
    REQUIRE(y);
    REQUIRE_OK(plan_read_f32(p, output, y));
    for (int64_t i = 0; i < ch * cells; i++) {
        double d = fabs(a * (double)y[i % cells * ch + i / cells] + b - safetensor_load(want, i));
        worst = isnan(d) ? INFINITY : fmax(worst, d);
    }
    mem_free(y);
    return worst;
}

static void check_taef2(device *dev, const char *dir) {
    params ps;
    plan *p = NULL;
    static float image[64 * 64 * 3];
    safetensors *enc = open_in(dir, "taef2/taef2_encoder.safetensors"), *dec = open_in(dir, "taef2/taef2_decoder.safetensors");
    safetensors *f = open_in(dir, "taef2/taef2_golden.safetensors");
    const safetensor *u8 = gold(f, "image_u8", "");
    params_init(&ps, dev, DT_F32);
    REQUIRE_OK(vae_declare(&ps, &taef2));
    REQUIRE_OK(params_allocate(&ps));
    REQUIRE_EQ(ps.n, enc->n + dec->n);
    load_taef2(&ps, enc, "encoder", 0);
    load_taef2(&ps, dec, "decoder", 1);
    graph *g = graph_create(dev);
    REQUIRE(g);
    nn m = {g, &ps, NULL};
    tensor *z = vae_encode(&m, &taef2, graph_input(g, "image", DT_F32, SHAPE(1, 64, 64, 3)));
    graph_output(g, z, "latent");
    graph_output(g, vae_decode(&m, &taef2, z), "decoded");
    REQUIRE_OK(graph_compile(g, NULL, &p));
    REQUIRE_EQ(safetensor_count(u8), 64 * 64 * 3);
    for (int i = 0; i < 64 * 64 * 3; i++) image[i % 4096 * 3 + i / 4096] = (float)(2 * safetensor_load(u8, i) / 255 - 1);
    REQUIRE_OK(plan_write(p, "image", image));
    REQUIRE_OK(plan_run(p, NULL, NULL));
    double latent = taef2_error(p, "latent", gold(f, "latent", ""), 1, 0), decoded = taef2_error(p, "decoded", gold(f, "decoded", ""), 0.5, 0.5);
    CHECK(latent < 1e-4 && decoded < 1e-4, "TAEF2: latent off by %g, picture by %g", latent, decoded);
    printf("TAEF2: latent off by %.1e, picture by %.1e\n", latent, decoded);
    plan_destroy(p);
    params_fini(&ps);
    safetensors_close(enc);
    safetensors_close(dec);
    safetensors_close(f);
}

/* ---- what is refused ---- */

static void check_refusals(device *dev) {
    params ps;
    unet_config wide = sd1;
    vae_config high = kl;
    text_config c = clip;
    wide.layers_per_block = UNET_MAX_SKIPS;
    high.levels = VAE_MAX_LEVELS + 1;
    c.num_hidden_layers = 0;
    params_init(&ps, dev, DT_F32);
    CHECK(unet_declare(&ps, &wide, NULL) == E_UNSUPPORTED, "a UNet with %d layers per block passed", UNET_MAX_SKIPS);
    CHECK(vae_declare(&ps, &high) == E_UNSUPPORTED, "an autoencoder of %d levels passed", high.levels);
    CHECK(text_declare(&ps, &c, NULL) == E_USAGE, "a text encoder of no layers passed");
    params_fini(&ps);
    params_init(&ps, dev, DT_F32);
    REQUIRE_OK(vae_declare(&ps, &kl));
    REQUIRE_OK(params_allocate(&ps));
    graph *g = graph_create(dev);
    REQUIRE(g);
    vae_encode(&(nn){g, &ps, NULL}, &kl, graph_input(g, "image", DT_F32, SHAPE(1, 8, 10, 3)));
    CHECK(graph_status(g) == E_SHAPE, "an image of 10 x 8 was halved twice");
    graph_destroy(g);
    params_fini(&ps);
}

int main(int argc, char **argv) {
    device *dev = NULL;
    const char *name = argc > 2 ? argv[2] : "cpu";
    if (argc < 2) return printf("usage: test_families GOLDEN_DIR [device]\n"), 2;
    if (device_open(&op_all, &(device_params){.name = name, .validation = TEST_VALIDATION}, &dev) != OK) return printf("skipped: %s\n", error_message()), 77;
    safetensors *f = open_in(argv[1], "families.safetensors");
    check_sizes(dev, f);
    check_refusals(dev);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        run_case(dev, f, &cases[i], DT_F32);
        for (int t = DT_F16; strcmp(name, "cpu") == 0 && t <= DT_BF16; t++) run_case(dev, f, &cases[i], (dtype)t);
    }
    check_taef2(dev, argv[1]);
    safetensors_close(f);
    CHECK(device_validation_errors(dev) == 0, "the validation layer has complaints");
    device_close(dev);
    CHECK(mem_live() == 0, "%lld blocks leaked", (long long)mem_live());
    printf("%s: %zu networks, %d failures\n", name, ARRAY_LEN(cases), g_failures);
    return g_failures ? 1 : 0;
}
