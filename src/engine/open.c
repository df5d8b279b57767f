/* open.c: from a path and a device to something that can run: the device, the checkpoint, every part's parameters declared
 * and bound to their place in the files. No value is read here: a plan reads what it needs when it is compiled.
 * SPDX-License-Identifier: MIT */
#include "engine/engine.h"
#include "op/op.h"
#include <stdio.h>

_Static_assert((int)IMAGO_STATUS_COUNT == (int)STATUS_COUNT, "imago_status and status are one list");

const char *imago_error_message(void) { return error_message(); }

void engine_progress(imago *im, imago_stage s, int step, int steps, double started) {
    if (!im->progress) return;
    imago_progress p = {s, step, steps, os_seconds() - started};
    im->progress(im->ctx, &p);
}

status engine_run(imago *im, plan *p) { return plan_run(p, im->cancelled, im->ctx); }

status engine_plan(imago *im, const char *key, status (*record)(imago *im, graph *g, const void *ctx), const void *ctx, plan **out) {
    status st = OK;
    *out = plan_cache_get(im->plans, key);
    if (*out) return OK;
    double start = os_seconds();
    plan *made = NULL;
    graph *g = graph_create(im->dev);
    if (!g) return graph_status(g);
    st = record(im, g, ctx);
    if (st != OK) {
        graph_destroy(g);
        return st;
    }
    TRY(graph_compile(g, &(plan_params){.label = key}, &made));
    TRY(plan_cache_put(im->plans, key, made));
    *out = made;
    im->report.load_s += os_seconds() - start;
out:
    return st;
}

static status pick_precision(imago *im, const char *name) {
    static const struct { const char *name; dtype type; } all[] = {{"f32", DT_F32}, {"f16", DT_F16}, {"bf16", DT_BF16},
        {"fp32", DT_F32}, {"fp16", DT_F16}, {"float32", DT_F32}, {"float16", DT_F16}, {"bfloat16", DT_BF16}};
    im->type = device_auto_precision(im->dev);
    if (!name || strcmp(name, "auto") == 0) return OK;
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        if (strcmp(name, all[i].name) == 0) return im->type = all[i].type, OK;
    return fail(E_USAGE, "precision '%s': expected auto, f32, f16 or bf16", name);
}

static status bind_parts(imago *im) {
    status st = OK;
    const checkpoint *c = im->ck;
    for (int p = 0; p < PART_COUNT; p++) params_init(&im->part[p], im->dev, im->type);
    TRY(unet_declare(&im->part[PART_UNET], &c->unet, NULL));
    TRY(vae_declare(&im->part[PART_VAE], &c->vae));
    TRY(text_declare(&im->part[PART_TEXT], &c->text, NULL));
    for (int p = 0; p < PART_COUNT; p++) {
        TRY(params_allocate(&im->part[p]));
        TRY(checkpoint_load(c, (part)p, &im->part[p]));
    }
out:
    return st;
}

static status open_tokenizer(imago *im) {
    status st = OK;
    const checkpoint *c = im->ck;
    TRY(tokenizer_open(c->tokenizer_dir[0] ? c->tokenizer_dir : NULL, &im->tok));
    if (c->pad_zero && !c->tokenizer_dir[0]) tokenizer_set_pad(im->tok, 0);
    if (tokenizer_size(im->tok) > c->text.vocab_size)
        TRY(fail(E_FORMAT, "%s: the tokenizer has %d tokens, the text encoder %d: they do not belong together", c->path,
                 tokenizer_size(im->tok), c->text.vocab_size));
out:
    return st;
}

static status open_all(imago *im, const imago_open_params *p) {
    status st = OK;
    double start = os_seconds();
    char text[700];
    if (!p->model) return fail(E_USAGE, "no model: give a diffusers folder, a .safetensors or a .gguf file");
    engine_progress(im, IMAGO_LOADING, 0, 1, start);
    TRY(device_open(&op_all, &(device_params){.name = p->device, .cache_dir = p->cache_dir, .threads = p->threads}, &im->dev));
    TRY(pick_precision(im, p->precision));
    if (!(im->plans = plan_cache_create(12))) TRY(fail(E_HOST_MEMORY, "no host memory to open a model"));
    TRY(checkpoint_open(p->model, &(checkpoint_options){.prediction = p->prediction, .vae = p->vae}, &im->ck));
    TRY(open_tokenizer(im));
    TRY(bind_parts(im));
    TRY(adapters_load(im, p->adapters, p->n_adapters));
    for (int i = 0; i < p->n_embeddings; i++) TRY(text_load_embedding(im, p->embeddings[i]));
    if (!im->ck->prediction_known) TRY(denoise_find_prediction(im));
    snprintf(im->described, sizeof im->described, "%s, on %s in %s", checkpoint_describe(im->ck, text, sizeof text),
             device_id(im->dev), dtype_name(im->type));
    im->report.load_s = os_seconds() - start;
    engine_progress(im, IMAGO_LOADING, 1, 1, start);
out:
    return st;
}

imago_status imago_open(const imago_open_params *p, imago **out) {
    *out = NULL;
    imago *im = mem_zalloc(sizeof *im);
    if (!im) return ENGINE_STATUS(fail(E_HOST_MEMORY, "no host memory to open a model"));
    im->progress = p->progress;
    im->cancelled = p->cancelled;
    im->ctx = p->ctx;
    status st = open_all(im, p);
    if (st == OK) *out = im;
    else imago_close(im);
    return ENGINE_STATUS(st);
}

void imago_close(imago *im) {
    if (!im) return;
    plan_cache_destroy(im->plans);
    latents_fini(im);
    array_destroy(im->extra);
    for (int p = 0; p < PART_COUNT; p++) params_fini(&im->part[p]);
    adapters_fini(im);
    tokenizer_close(im->tok);
    checkpoint_close(im->ck);
    device_close(im->dev);
    mem_free(im);
}

const char *imago_describe_model(const imago *im) { return im->described; }

void imago_get_report(const imago *im, imago_report *out) {
    *out = im->report;
    device_memory_use(im->dev, &out->weight_bytes, &out->compute_bytes);
}
