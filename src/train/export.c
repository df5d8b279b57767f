/* export.c: see export.h. Weights are written before the config, so that a folder with a config has
 * its weights. SPDX-License-Identifier: MIT */
#include "train/export.h"
#include "family/checkpoint_parts.h"
#include "file/file.h"
#include <math.h>
#include <stdio.h>

static status to_half(const params *ps, const param *p, float *f, uint16_t *h) {
    status st = OK;
    int64_t n = shape_count(&p->s);
    TRY(params_get((params *)ps, p->name, f, n));
    for (int64_t i = 0; i < n; i++) {
        h[i] = f32_to_f16(f[i]);
        if (!isfinite(f16_to_f32(h[i])))
            TRY(fail(E_FORMAT, "%s holds %g, which f16 cannot: the training has diverged", p->name,
                     (double)f[i]));
    }
out:
    return st;
}

status export_part(const params *ps, const checkpoint *c, part p, const char *folder) {
    status st = OK;
    arena a = {0};
    char sub[1200], path[1280];
    float *f = NULL;
    int64_t largest = 0;
    static const safetensor_note note = {"format", "pt"}; /* transformers asks for it */
    safetensor *t = arena_new(&a, safetensor, ps->n);
    for (int i = 0; i < ps->n; i++) largest = MAX(largest, shape_count(&ps->p[i].s));
    if (!t || !(f = mem_alloc(sizeof *f * (size_t)largest)))
        TRY(fail(E_HOST_MEMORY, "no host memory to write a model"));
    for (int i = 0; i < ps->n; i++) {
        const param *from = &ps->p[i];
        uint16_t *h = arena_new(&a, uint16_t, shape_count(&from->s));
        if (!h) TRY(fail(E_HOST_MEMORY, "no host memory to write a model"));
        TRY(to_half(ps, from, f, h));
        t[i] = (safetensor){.name = from->name, .dtype = DT_F16, .n_dims = from->s.n, .data = h};
        for (int d = 0; d < from->s.n; d++) t[i].dim[d] = from->s.d[d];
    }
    snprintf(sub, sizeof sub, "%s/%s", folder, part_name(p));
    TRY(os_mkdir_p(sub));
    snprintf(path, sizeof path, "%s/%s.safetensors", sub,
             p == PART_TEXT ? "model" : "diffusion_pytorch_model");
    TRY(safetensors_write(path, t, ps->n, &note, 1));
    const char *text = checkpoint_config(c, p, &a);
    if (!text) TRY(fail(E_HOST_MEMORY, "no host memory for %s's config", part_name(p)));
    snprintf(path, sizeof path, "%s/config.json", sub);
    TRY(file_write_atomic(path, text, strlen(text)));
out:
    mem_free(f);
    arena_fini(&a);
    return st;
}

static void part_file(part p, const char *folder, char path[1280]) {
    snprintf(path, 1280, "%s/%s/%s.safetensors", folder, part_name(p),
             p == PART_TEXT ? "model" : "diffusion_pytorch_model");
}

status import_part(params *ps, part p, const char *folder) {
    status st = OK;
    safetensors *f = NULL;
    float *v = NULL;
    char path[1280], seen[96], want[96];
    part_file(p, folder, path);
    TRY(safetensors_open(path, &f));
    for (int i = 0; i < ps->n; i++) {
        const param *to = &ps->p[i];
        const safetensor *t = safetensors_find(f, to->name);
        if (!t) TRY(fail(E_FORMAT, "%s: no tensor '%s'", path, to->name));
        bool same = t->n_dims == to->s.n;
        for (int d = 0; same && d < to->s.n; d++) same = t->dim[d] == to->s.d[d];
        if (!same)
            TRY(fail(E_FORMAT, "%s: %s is %s, expected %s", path, to->name,
                     safetensor_describe(t, seen, sizeof seen), shape_text(&to->s, want)));
        mem_free(v);
        if (!(v = mem_alloc(sizeof *v * (size_t)safetensor_count(t))))
            TRY(fail(E_HOST_MEMORY, "no host memory for %s", to->name));
        safetensor_read_f32(t, v);
        TRY(params_set(ps, to->name, v, safetensor_count(t)));
    }
out:
    mem_free(v);
    safetensors_close(f);
    return st;
}

status import_vae_config(const char *folder, vae_config *out) {
    char path[1280];
    json *j = NULL;
    snprintf(path, sizeof path, "%s/%s/config.json", folder, part_name(PART_VAE));
    *out = (vae_config){0};
    status st = parts_read_json(path, &j);
    if (st == OK) st = config_read_vae(j, path, out);
    json_free(j);
    return st;
}

status export_index(const checkpoint *c, const char *folder) {
    status st = OK;
    arena a = {0};
    char path[1280];
    snprintf(path, sizeof path, "%s/scheduler", folder);
    TRY(os_mkdir_p(path));
    const char *schedule = checkpoint_config(c, PART_COUNT, &a);
    const char *index =
        arena_printf(&a,
                     "{\n  \"_class_name\": \"StableDiffusionPipeline\",\n  "
                     "\"_diffusers_version\": \"0.30.0\",\n  \"feature_extractor\": [null, null],\n"
                     "  \"image_encoder\": [null, null],\n  \"requires_safety_checker\": false,\n  "
                     "\"safety_checker\": [null, null],\n"
                     "  \"scheduler\": [\"diffusers\", \"DDIMScheduler\"],\n  \"text_encoder\": "
                     "[\"transformers\", \"CLIPTextModel\"],\n"
                     "  \"tokenizer\": [\"transformers\", \"CLIPTokenizer\"],\n  \"unet\": "
                     "[\"diffusers\", \"UNet2DConditionModel\"],\n"
                     "  \"vae\": [\"diffusers\", \"%s\"]\n}\n",
                     c->vae.kind == VAE_KL ? "AutoencoderKL" : "AutoencoderTiny");
    if (!schedule || !index) TRY(fail(E_HOST_MEMORY, "no host memory to write a model"));
    snprintf(path, sizeof path, "%s/scheduler/scheduler_config.json", folder);
    TRY(file_write_atomic(path, schedule, strlen(schedule)));
    snprintf(path, sizeof path, "%s/model_index.json", folder);
    TRY(file_write_atomic(path, index, strlen(index)));
out:
    arena_fini(&a);
    return st;
}
