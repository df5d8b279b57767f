/* read_kinds.c: LoRA in all spellings, DoRA, whole differences -> our adapters.
 * SPDX-License-Identifier: MIT */
#include "adapter/read.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

static bool is_1x1(const safetensor *t) {
    for (int i = 2; i < t->n_dims; i++)
        if (t->dim[i] != 1) return false;
    return true;
}

static const safetensor *tensor_of(const layer_group *g, role k, int least, int most, status *st,
                                   const char *path) {
    const safetensor *t = g->t[k];
    char text[96];
    if (!t)
        *st = fail(E_FORMAT, "%s: layer %s is incomplete: half of its LoRA is missing", path,
                   g->layer);
    else if (t->n_dims < least || t->n_dims > most)
        *st = fail(E_FORMAT, "%s: %s is %s: expected %d to %d dimensions", path, t->name,
                   safetensor_describe(t, text, sizeof text), least, most);
    else
        return t;
    return NULL;
}

/* Regular expressions of PEFT's patterns are read where they are plain names; the first that the
 * layer ends in counts. */
static status pattern_number(const reading *r, const layer_group *g, const char *field,
                             double *value) {
    const json *all = read_config(r, g, field);
    for (const cJSON *one = cJSON_IsObject(all) ? all->child : NULL; one; one = one->next) {
        const char *key = one->string[0] == '^' ? one->string + 1 : one->string;
        size_t n = strlen(g->layer), k = strlen(key);
        if (strpbrk(key, "*+?()[]{}|\\$^"))
            return fail(E_UNSUPPORTED,
                        "%s: %s has the regular expression '%s'; only layer names are read",
                        r->f->path, field, one->string);
        bool ends = n >= k && strcmp(g->layer + n - k, key) == 0 &&
                    (n == k || (one->string[0] != '^' && g->layer[n - k - 1] == '.'));
        if (!ends || !cJSON_IsNumber(one)) continue;
        *value = one->valuedouble;
        break;
    }
    return OK;
}

static status read_alpha(reading *r, const layer_group *g, adapter_options *o) {
    status st = OK;
    double alpha = 0;
    if (g->t[ROLE_ALPHA]) {
        alpha = safetensor_load(g->t[ROLE_ALPHA], 0);
    } else if (read_config(r, g, "lora_alpha")) {
        alpha = read_number(r, g, "lora_alpha", 0);
        TRY(pattern_number(r, g, "alpha_pattern", &alpha));
        o->rslora = read_true(r, g, "use_rslora", false);
    } else if (g->spelled == SPELL_PEFT && !read_told(r, "peft-lora")) {
        TRY(fail(E_USAGE,
                 "%s: PEFT keeps the scale (lora_alpha) in adapter_config.json, which is not here. "
                 "Put it beside the file, or say "
                 "peft-lora to assume that alpha is the rank",
                 r->f->path));
    }
    if (!isfinite(alpha) || fabs(alpha) > 1e6)
        TRY(fail(E_FORMAT, "%s: alpha of %s is %g", r->f->path, g->layer, alpha));
    o->alpha = (float)alpha; /* 0 and absent both stand for the rank, as in kohya's programs */
out:
    return st;
}

/* down [R, I, ...], mid [R, R, kh, kw] -> [R, I, kh, kw] */
static status fold_mid(reading *r, const layer_group *g, const safetensor *down, int64_t rank,
                       float *a) {
    status st = OK;
    const safetensor *mid = tensor_of(g, ROLE_MID, 4, 4, &st, r->f->path);
    const float *d = NULL, *m = NULL;
    if (!mid) return st;
    int64_t in = g->p->s.d[1], area = mid->dim[2] * mid->dim[3];
    if (g->p->s.n != 4 || mid->dim[0] != rank || mid->dim[1] != rank ||
        area != g->p->s.d[2] * g->p->s.d[3] || !is_1x1(down))
        return fail(E_SHAPE, "%s: %s does not fit layer %s", r->f->path, mid->name, g->layer);
    TRY(read_values(r, g, ROLE_DOWN, rank * in, &d));
    TRY(read_values(r, g, ROLE_MID, rank * rank * area, &m));
    for (int64_t q = 0; q < rank; q++)
        for (int64_t i = 0; i < in; i++)
            for (int64_t k = 0; k < area; k++) {
                double sum = 0;
                for (int64_t s = 0; s < rank; s++)
                    sum += (double)m[(q * rank + s) * area + k] * (double)d[s * in + i];
                a[(q * in + i) * area + k] = (float)sum;
            }
out:
    return st;
}

static const char *lora_dialect(const reading *r, const layer_group *g) {
    if (g->spelled == SPELL_INDEX) return "cloneofsimo-lora";
    if (g->spelled == SPELL_PEFT || r->config) return "peft-lora";
    if (g->spelled == SPELL_DIFFUSERS) return "diffusers-lora";
    return g->spelled == SPELL_LYCORIS ? "lycoris-lora" : "kohya-lora";
}

static status read_lora(reading *r, const layer_group *g) {
    status st = OK;
    const safetensor *down = tensor_of(g, ROLE_DOWN, 2, 4, &st, r->f->path),
                     *up = down ? tensor_of(g, ROLE_UP, 2, 4, &st, r->f->path) : NULL;
    const safetensor *mag = g->t[ROLE_MAGNITUDE];
    float *v[ADAPTER_MAX_TENSORS];
    int64_t count[ADAPTER_MAX_TENSORS];
    const float *x = NULL;
    char a[96], b[96];
    if (!up) return st;
    if (down->dim[0] != up->dim[1] || down->dim[0] > 65536 || up->dim[0] != g->p->s.d[0] ||
        !is_1x1(up))
        return fail(E_SHAPE, "%s is for another model: %s is %s, the layer's weight is %s",
                    r->f->path, up->name, safetensor_describe(up, a, sizeof a),
                    shape_text(&g->p->s, b));
    adapter_options o = {.rank = (int)down->dim[0], .dora = mag != NULL};
    TRY(read_alpha(r, g, &o));
    /* [1, I, 1, 1]: columns; [O], [O, 1], [1, O, 1, 1] (PEFT on convolutions): rows */
    bool peft_magnitude = mag && strstr(mag->name, "magnitude");
    o.dora_columns = mag && !peft_magnitude && mag->n_dims > 1 && mag->dim[0] == 1 &&
                     mag->dim[1] == g->p->s.d[1] && g->p->s.d[1] > 1;
    TRY(read_add(r, g, adapter_find("lora"), &o, v, count));
    if (g->t[ROLE_MID]) {
        TRY(fold_mid(r, g, down, o.rank, v[0]));
    } else {
        TRY(read_values(r, g, ROLE_DOWN, count[0], &x));
        memcpy(v[0], x, (size_t)count[0] * sizeof *x);
    }
    TRY(read_values(r, g, ROLE_UP, count[1], &x));
    memcpy(v[1], x, (size_t)count[1] * sizeof *x);
    if (mag) {
        TRY(read_values(r, g, ROLE_MAGNITUDE, count[2], &x));
        memcpy(v[2], x, (size_t)count[2] * sizeof *x);
    }
    read_say(r, lora_dialect(r, g), "%s is a pair of rank %d, scale %s", g->t[ROLE_DOWN]->name,
             o.rank,
             g->t[ROLE_ALPHA]                  ? "alpha / rank with alpha in the file"
             : read_config(r, g, "lora_alpha") ? "from PEFT's config"
                                               : "1");
out:
    return st;
}

/* ---- whole differences ---- */

static status add_delta(reading *r, const layer_group *g, role k, const char *field) {
    status st = OK;
    char name[160];
    const float *x = NULL;
    adapter_file_part *part = &r->f->part[g->model];
    snprintf(name, sizeof name, "%s.%s", g->layer, field);
    const param *p = params_find(r->f->model[g->model].ps, name);
    if (!p)
        return fail(E_FORMAT,
                    "%s is for another model: %s changes %s, which this one does not have",
                    r->f->path, g->t[k]->name, name);
    TRY(read_values(r, g, k, shape_count(&p->s), &x));
    adapter_delta *bigger = mem_realloc(part->delta, (size_t)part->n_deltas * sizeof *bigger,
                                        (size_t)(part->n_deltas + 1) * sizeof *bigger);
    if (!bigger) TRY(fail(E_HOST_MEMORY, "no host memory to read %s", r->f->path));
    part->delta = bigger;
    part->delta[part->n_deltas++] = (adapter_delta){p->name, x, shape_count(&p->s)};
    read_say(r, "diff", "%s is a whole difference", g->t[k]->name);
out:
    return st;
}

static status read_diff(reading *r, const layer_group *g) {
    status st = OK;
    float *v[ADAPTER_MAX_TENSORS];
    int64_t count[ADAPTER_MAX_TENSORS];
    const float *x = NULL;
    if (g->p->vector) return add_delta(r, g, ROLE_DIFF, "weight");
    TRY(read_add(r, g, adapter_find("diff"), &(adapter_options){0}, v, count));
    TRY(read_values(r, g, ROLE_DIFF, count[0], &x));
    memcpy(v[0], x, (size_t)count[0] * sizeof *x);
    read_say(r, "diff", "%s is a whole difference", g->t[ROLE_DIFF]->name);
out:
    return st;
}

status read_group_convert(reading *r, const layer_group *g) {
    status st = OK;
    int kinds = 0;
    bool lora = g->t[ROLE_DOWN] || g->t[ROLE_UP], rotation = false;
    for (int k = ROLE_OFT_VECTOR; k <= ROLE_BOFT; k++)
        rotation |= g->t[k] && k != ROLE_OFT_SCALED && k != ROLE_OFT_SCALE;
    kinds = lora + rotation + (g->t[ROLE_DIFF] != NULL);
    if (kinds > 1)
        return fail(E_FORMAT, "%s: layer %s carries several kinds of adapter at once", r->f->path,
                    g->layer);
    if (g->t[ROLE_DIFF_BIAS]) TRY(add_delta(r, g, ROLE_DIFF_BIAS, "bias"));
    if (g->t[ROLE_NORM]) TRY(add_delta(r, g, ROLE_NORM, "weight"));
    if (g->t[ROLE_NORM_BIAS]) TRY(add_delta(r, g, ROLE_NORM_BIAS, "bias"));
    if (g->t[ROLE_DIFF]) return read_diff(r, g);
    if (rotation) return read_rotation(r, g);
    if (lora) return read_lora(r, g);
    if (!g->t[ROLE_DIFF_BIAS] && !g->t[ROLE_NORM] && !g->t[ROLE_NORM_BIAS])
        return fail(E_FORMAT, "%s: layer %s has a scale and nothing to be scaled", r->f->path,
                    g->layer);
out:
    return st;
}
