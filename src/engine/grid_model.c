/* grid_model.c: what is trained for grids, beside a model that stays as it was opened: an adapter of the attention layers,
 * channels that tell given cells from those to be made, a vector per role and place. And its file: one safetensors file
 * of our own, for no other program has the parts that are not an adapter.
 * SPDX-License-Identifier: MIT */
#include "engine/grid.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>

#define NOTE       "imago.grid"
#define NOTE_BYTES ((size_t)4096)
static const char *const targets[] = {"to_q", "to_k", "to_v", "to_out.0", NULL};
static const char *const bank_targets[] = {"attn1.to_q", NULL};
static const char *const part_names[1 + GRID_BANKS] = {"adapter", "bank0", "bank1", "bank2"};

int grid_model_parts(grid_model *m, params *of[1 + GRID_BANKS], const char *name[1 + GRID_BANKS]) {
    int n = m->o.banks ? 1 + GRID_BANKS : 1;
    for (int i = 0; i < n; i++) {
        of[i] = i ? &m->bank_ps[i - 1] : &m->ps;
        if (name) name[i] = part_names[i];
    }
    return n;
}

static status declare_more(grid_model *m) {
    status st = OK;
    const unet_config *c = &m->im->ck->unet;
    int64_t width = c->block_out_channels[0];
    TRY(params_declare(&m->ps, "grid.conv_in.weight", SHAPE(width, c->in_channels + 1, 3, 3), false));
    params_find(&m->ps, "grid.conv_in.weight")->trainable = true;
    TRY(params_declare(&m->ps, "grid.role.weight", SHAPE(4 * width, GRID_TRAITS), true));
    params_find(&m->ps, "grid.role.weight")->trainable = true;
out:
    return st;
}

static status declare(grid_model *m) {
    status st = OK;
    params *unet = &m->im->part[PART_UNET], *of[1 + GRID_BANKS];
    m->set = (adapter_set){.info = m->o.adapter, .targets = targets, .opts = m->o.adapt, .ps = &m->ps};
    for (int b = 0; m->o.banks && b < GRID_BANKS; b++) {
        adapter_set *before = b ? &m->bank[b - 1] : &m->set;
        m->bank[b] = (adapter_set){.info = m->o.adapter, .targets = bank_targets, .opts = m->o.adapt, .ps = &m->bank_ps[b]};
        if (m->o.adapter == adapter_find("lora")) m->bank[b].left = &m->ps; /* Grid-LoRA: W + A B + A B', one A */
        before->next = &m->bank[b];
    }
    TRY(unet_declare(unet, &m->im->ck->unet, &m->set));
    TRY(declare_more(m));
    for (int b = 0; b < GRID_BANKS; b++) m->set.next = NULL, m->bank[b].next = NULL; /* a graph makes its own chain */
    int n = grid_model_parts(m, of, NULL);
    for (int i = 0; i < n; i++) TRY(params_allocate(of[i]));
out:
    return st;
}

status grid_model_create(imago *im, const grid_options *o, uint32_t seed, grid_model **out) {
    status st = OK;
    const checkpoint *c = im->ck;
    grid_model *m = *out = NULL;
    if (c->unet.in_channels != c->vae.latent_channels || c->unet.time_cond_proj_dim)
        return fail(E_UNSUPPORTED, "%s: inpainting and distilled networks make no grids: use the model they were made from", c->path);
    if (c->text.hidden_size != c->unet.cross_attention_dim)
        return fail(E_FORMAT, "%s: the text encoder is %d wide, the UNet expects %d", c->path, c->text.hidden_size, c->unet.cross_attention_dim);
    if (!(m = mem_zalloc(sizeof *m))) return fail(E_HOST_MEMORY, "no host memory for a grid adapter");
    m->im = im, m->o = *o, m->strength = 1;
    params_init(&m->ps, im->dev, DT_F32);
    for (int b = 0; b < GRID_BANKS; b++) params_init(&m->bank_ps[b], im->dev, DT_F32);
    TRY(declare(m));
    TRY(adapter_init_all(&m->set, &im->part[PART_UNET], seed));
    for (int b = 0; o->banks && b < GRID_BANKS; b++) TRY(adapter_init_all(&m->bank[b], &im->part[PART_UNET], seed + 1 + (uint32_t)b));
    *out = m;
    m = NULL;
out:
    grid_model_destroy(m);
    return st;
}

static void kept_fini(grid_kept *k) {
    for (int i = 0; i < UNET_MAX_ATTENTIONS; i++) array_destroy(k->k[i]), array_destroy(k->v[i]);
    *k = (grid_kept){0};
}

status grid_model_forget(grid_model *m) {
    status st = engine_forget_plans(m->im); /* they point to the arrays that go */
    kept_fini(&m->kept);
    return st;
}

void grid_model_destroy(grid_model *m) {
    if (!m) return;
    if (m->im->plans) grid_model_forget(m);
    params_fini(&m->ps);
    for (int b = 0; b < GRID_BANKS; b++) params_fini(&m->bank_ps[b]);
    mem_free(m);
}

/* ---- file ---- */
static status describe(const grid_model *m, char note[NOTE_BYTES]) {
    const adapter_options *a = &m->o.adapt;
    cJSON *o = cJSON_CreateObject();
    bool good = o && cJSON_AddNumberToObject(o, "version", 1) && cJSON_AddStringToObject(o, "adapter", m->o.adapter->name) &&
                cJSON_AddNumberToObject(o, "rank", a->rank) && cJSON_AddNumberToObject(o, "alpha", (double)a->alpha) &&
                cJSON_AddNumberToObject(o, "block", a->block) && cJSON_AddNumberToObject(o, "factors", a->factors) &&
                cJSON_AddNumberToObject(o, "eps", (double)a->eps) && cJSON_AddStringToObject(o, "sight", grid_sight_names[m->o.sight]) &&
                cJSON_AddStringToObject(o, "given", m->o.noised ? "noised" : "clean") && cJSON_AddBoolToObject(o, "slots", m->o.slots) &&
                cJSON_AddBoolToObject(o, "banks", m->o.banks) && cJSON_PrintPreallocated(o, note, (int)NOTE_BYTES, false);
    cJSON_Delete(o);
    return good ? OK : fail(E_HOST_MEMORY, "no host memory to describe a grid adapter");
}

static int count_tensors(grid_model *m, params *of[], const char *name[], int *n_parts) {
    int n = 0;
    *n_parts = grid_model_parts(m, of, name);
    for (int i = 0; i < *n_parts; i++) n += of[i]->n;
    return n;
}

/* "adapter.down_blocks…", "bank0.…", "grid.conv_in.weight" */
static const char *file_name(arena *a, const char *prefix, const param *p) {
    return strncmp(p->name, "grid.", 5) == 0 ? p->name : arena_printf(a, "%s.%s", prefix, p->name);
}

status grid_model_save(const grid_model *model, const char *path, const safetensor_note *more, int n_more) {
    status st = OK;
    arena mem = {0};
    params *of[1 + GRID_BANKS];
    const char *name[1 + GRID_BANKS];
    char note[NOTE_BYTES];
    int n_parts, k = 0, n = count_tensors((grid_model *)model, of, name, &n_parts);
    safetensor *t = arena_new(&mem, safetensor, n);
    safetensor_note *notes = arena_new(&mem, safetensor_note, n_more + 1);
    if (!t || !notes) TRY(fail(E_HOST_MEMORY, "no host memory to write %s", path));
    for (int i = 0; i < n_parts; i++)
        for (int j = 0; j < of[i]->n; j++, k++) {
            const param *p = &of[i]->p[j];
            int64_t count = shape_count(&p->s);
            float *v = arena_new(&mem, float, count);
            t[k] = (safetensor){.name = file_name(&mem, name[i], p), .dtype = DT_F32, .n_dims = p->s.n, .data = v};
            if (!v || !t[k].name) TRY(fail(E_HOST_MEMORY, "no host memory to write %s", path));
            for (int d = 0; d < p->s.n; d++) t[k].dim[d] = p->s.d[d];
            TRY(params_get(of[i], p->name, v, count));
        }
    TRY(describe(model, note));
    notes[0] = (safetensor_note){NOTE, note};
    if (n_more) memcpy(notes + 1, more, sizeof *more * (size_t)n_more);
    TRY(safetensors_write(path, t, n, notes, n_more + 1));
out:
    arena_fini(&mem);
    return st;
}

static double number(const cJSON *o, const char *key, double low, double high, bool *good) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    *good = *good && cJSON_IsNumber(v) && v->valuedouble >= low && v->valuedouble <= high;
    return *good ? v->valuedouble : 0;
}

static const char *word(const cJSON *o, const char *key, bool *good) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    *good = *good && cJSON_IsString(v);
    return *good ? v->valuestring : "";
}

static bool truth(const cJSON *o, const char *key, bool *good) {
    const cJSON *v = cJSON_GetObjectItemCaseSensitive(o, key);
    *good = *good && cJSON_IsBool(v);
    return *good && cJSON_IsTrue(v);
}

static status read_options(const char *path, const char *note, grid_options *out) {
    status st = OK;
    bool good = true, found = false;
    json *o = NULL;
    TRY(json_parse(note, strlen(note), path, &o));
    if (number(o, "version", 1, 1e9, &good) > 1) TRY(fail(E_UNSUPPORTED, "%s: a grid adapter of a later version of imago", path));
    out->adapter = adapter_find(word(o, "adapter", &good));
    out->adapt = (adapter_options){.rank = (int)number(o, "rank", 0, 4096, &good), .alpha = (float)number(o, "alpha", 0, 1e6, &good),
                                   .block = (int)number(o, "block", 0, 1 << 16, &good), .factors = (int)number(o, "factors", 0, 16, &good),
                                   .eps = (float)number(o, "eps", 0, 1e6, &good)};
    const char *sight = word(o, "sight", &good);
    for (int i = 0; i < GRID_SIGHT_COUNT; i++)
        if (strcmp(sight, grid_sight_names[i]) == 0) out->sight = (grid_sight)i, found = true;
    const char *given = word(o, "given", &good);
    out->noised = strcmp(given, "noised") == 0;
    good = good && (out->noised || strcmp(given, "clean") == 0);
    out->slots = truth(o, "slots", &good);
    out->banks = truth(o, "banks", &good);
    if (!good || !found || !out->adapter) TRY(fail(E_FORMAT, "%s: its note %s makes no sense: %.200s", path, NOTE, note));
out:
    json_free(o);
    return st;
}

static status read_param(const safetensors *f, params *ps, const char *file, const param *p) {
    status st = OK;
    char seen[128], want[96];
    const safetensor *t = safetensors_find(f, file);
    int64_t n = shape_count(&p->s);
    float *v = NULL;
    if (!t) return fail(E_FORMAT, "%s has no %s, which this model needs: it was made for another model", f->path, file);
    bool same = t->n_dims == p->s.n && t->dtype != DT_COUNT;
    for (int d = 0; same && d < p->s.n; d++) same = t->dim[d] == p->s.d[d];
    if (!same)
        return fail(E_FORMAT, "%s: %s is %s, this model needs %s: it was made for another model", f->path, file,
                    safetensor_describe(t, seen, sizeof seen), shape_text(&p->s, want));
    if (!(v = mem_alloc(sizeof *v * (size_t)n))) return fail(E_HOST_MEMORY, "no host memory for %s", file);
    safetensor_read_f32(t, v);
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i])) TRY(fail(E_FORMAT, "%s: %s holds NaN or infinity", f->path, file));
    TRY(params_set(ps, p->name, v, n));
out:
    mem_free(v);
    return st;
}

static status fill_params(const safetensors *f, grid_model *m) {
    status st = OK;
    arena mem = {0};
    params *of[1 + GRID_BANKS];
    const char *name[1 + GRID_BANKS];
    int n_parts, n = count_tensors(m, of, name, &n_parts);
    if (f->n != n)
        TRY(fail(E_FORMAT, "%s holds %lld tensors, a grid adapter of this model %d: it was made for another model", f->path, (long long)f->n, n));
    for (int i = 0; i < n_parts; i++)
        for (int j = 0; j < of[i]->n; j++) {
            const char *file = file_name(&mem, name[i], &of[i]->p[j]);
            if (!file) TRY(fail(E_HOST_MEMORY, "no host memory to read %s", f->path));
            TRY(read_param(f, of[i], file, &of[i]->p[j]));
        }
out:
    arena_fini(&mem);
    return st;
}

status grid_model_open(imago *im, const char *path, grid_model **out) {
    status st = OK;
    safetensors *f = NULL;
    grid_model *m = *out = NULL;
    grid_options o = {0};
    TRY(safetensors_open(path, &f));
    const char *note = safetensors_find_note(f, NOTE);
    if (!note) TRY(fail(E_FORMAT, "%s is no grid adapter (it has no note %s): imago train-grid makes them", path, NOTE));
    TRY(read_options(path, note, &o));
    TRY(grid_model_create(im, &o, 0, &m));
    TRY(fill_params(f, m));
    *out = m;
    m = NULL;
out:
    grid_model_destroy(m);
    safetensors_close(f);
    return st;
}
