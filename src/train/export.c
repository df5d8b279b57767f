/* export.c: see export.h. Weights are written before the config, so that a folder with a config has its weights.
 * SPDX-License-Identifier: MIT */
#include "train/export.h"
#include "file/file.h"
#include <math.h>
#include <stdio.h>

static status to_half(const params *ps, const param *p, float *f, uint16_t *h) {
    status st = OK;
    int64_t n = shape_count(&p->s);
    TRY(params_get((params *)ps, p->name, f, n));
    for (int64_t i = 0; i < n; i++) {
        h[i] = f32_to_f16(f[i]);
        if (!isfinite(f16_to_f32(h[i]))) TRY(fail(E_FORMAT, "%s holds %g, which f16 cannot: the training has diverged", p->name, (double)f[i]));
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
    if (!t || !(f = mem_alloc(sizeof *f * (size_t)largest))) TRY(fail(E_HOST_MEMORY, "no host memory to write a model"));
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
    snprintf(path, sizeof path, "%s/%s.safetensors", sub, p == PART_TEXT ? "model" : "diffusion_pytorch_model");
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
