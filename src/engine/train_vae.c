/* train_vae.c: trains an autoencoder on a stream of pictures, and measures it on pictures it never
 * sees. SPDX-License-Identifier: MIT */
#include "engine/train.h"
#include "train/export.h"
#include "train/init.h"
#include <math.h>
#include <stdio.h>

enum { SHEET = 32 /* pictures of the sheet, each above what became of it */, SHEET_COLUMNS = 16 };

typedef struct job {
    device *dev;
    dtype type;
    const train_params *p;
    const train_vae_params *v;
    params model, judge;
    params whole; /* decoder_only: the model in f32, for what is frozen may have been rounded */
    plan *step, *eval;
    uint8_t *rgb, *seen;
    float *px, *latent; /* one batch; seen: sources and results of the sheet */
} job;

static size_t picture_elems(const job *j) { return (size_t)j->v->side * (size_t)j->v->side * 3; }

static status record_step(job *j) {
    graph *g = graph_create(j->dev);
    if (!g) return graph_status(g);
    static const char *const term[VAE_LOSS_COUNT] = {"pixels", "edges", "features", "moments", "squares"};
    int64_t b = j->p->batch, side = j->v->side;
    nn m = {g, &j->model, NULL}, judge = {g, &j->judge, NULL};
    tensor *x = graph_input(g, "image", DT_F32, SHAPE(b, side, side, 3)),
           *jitter = graph_input(g, "jitter", DT_F32, SHAPE(1));
    tensor *seed = graph_input(g, "seed", DT_U32, SHAPE(2)),
           *sample = graph_input(g, "sample", DT_U32, SHAPE(b));
    vae_loss_out out;
    vae_loss(&m, &j->v->vae, j->v->judge ? &judge : NULL, &j->v->loss, x, jitter, seed, sample,
             &out);
    graph_output(g, out.loss, "loss");
    for (int i = 0; i < VAE_LOSS_COUNT; i++) graph_output(g, out.term[i], term[i]);
    train_backward(g, out.loss, graph_input(g, "scale", DT_F32, SHAPE(1)), (params *[]){&j->model},
                   1, j->p->checkpointing);
    return graph_compile(g, &(plan_params){.label = "train vae"}, &j->step);
}

static status record_eval(job *j) {
    graph *g = graph_create(j->dev);
    if (!g) return graph_status(g);
    nn m = {g, &j->model, NULL};
    tensor *x = graph_input(g, "image", DT_F32, SHAPE(j->p->batch, j->v->side, j->v->side, 3));
    tensor *z = vae_encode(&m, &j->v->vae, op_cast(g, x, j->type));
    graph_output(g, op_cast(g, z, DT_F32), "latent");
    graph_output(g, op_cast(g, vae_decode(&m, &j->v->vae, z), DT_F32), "picture");
    return graph_compile(g, &(plan_params){.label = "measure vae"}, &j->eval);
}

static void to_floats(const uint8_t *rgb, size_t n, float *px) {
    for (size_t i = 0; i < n; i++) px[i] = image_unit(rgb[i]);
}

static status feed(void *ctx, int64_t step, uint64_t first) {
    status st = OK;
    job *j = ctx;
    uint32_t sample[1024], seed[2] = {j->p->seed, 0};
    float jitter = 3 * step >= 2 * j->p->lr.steps ? (float)j->v->jitter : 0;
    for (int i = 0; i < j->p->batch; i++) sample[i] = (uint32_t)(first + (uint64_t)i);
    TRY(j->v->pictures.next(j->v->pictures.ctx, first, j->p->batch, j->rgb));
    to_floats(j->rgb, picture_elems(j) * (size_t)j->p->batch, j->px);
    TRY(plan_write(j->step, "image", j->px));
    TRY(plan_write(j->step, "jitter", &jitter));
    TRY(plan_write(j->step, "seed", seed));
    TRY(plan_write(j->step, "sample", sample));
out:
    return st;
}

typedef struct measures {
    double psnr;
    int n;
    double group[64];
    int in_group[64];
    double *sum, *square;
    int64_t cells;
} measures;

/* One batch through the autoencoder: pictures [first, first + n). */
static status measure_batch(job *j, int first, int n, measures *m) {
    status st = OK;
    const train_vae_params *v = j->v;
    size_t one = picture_elems(j);
    int channels = v->vae.latent_channels;
    const uint8_t *from = v->held_out + one * (size_t)first;
    to_floats(from, one * (size_t)n, j->px);
    TRY(plan_write(j->eval, "image", j->px));
    TRY(plan_run(j->eval, j->p->cancelled, j->p->ctx));
    TRY(plan_read(j->eval, "picture", j->px));
    TRY(plan_read(j->eval, "latent", j->latent));
    for (size_t i = 0; i < one * (size_t)n; i++) j->rgb[i] = image_byte(j->px[i]);
    for (int i = 0; i < n; i++) {
        double p = image_psnr(from + one * (size_t)i, j->rgb + one * (size_t)i, one);
        int group = v->held_out_group ? v->held_out_group[first + i] : 0;
        m->psnr += p, m->group[group] += p, m->in_group[group]++, m->n++;
        int at = first + i, row = at / SHEET_COLUMNS * 2, column = at % SHEET_COLUMNS;
        if (at >= SHEET) continue;
        memcpy(j->seen + one * (size_t)(row * SHEET_COLUMNS + column), from + one * (size_t)i, one);
        memcpy(j->seen + one * (size_t)((row + 1) * SHEET_COLUMNS + column),
               j->rgb + one * (size_t)i, one);
    }
    int f = vae_factor(&v->vae);
    int64_t cells = (int64_t)n * (v->side / f) * (v->side / f);
    for (int64_t i = 0; i < cells * channels; i++) {
        double z = (double)j->latent[i];
        m->sum[i % channels] += z, m->square[i % channels] += z * z;
    }
    m->cells += cells;
out:
    return st;
}

static double worst_moment(const measures *m, int channels, bool mean) {
    double worst = 0;
    for (int c = 0; c < channels; c++) {
        double mu = m->sum[c] / (double)m->cells,
               sd = sqrt(MAX(m->square[c] / (double)m->cells - mu * mu, 0)),
               off = mean ? mu : sd - 1;
        if (fabs(off) > fabs(worst)) worst = off;
    }
    return worst;
}

/* Held-out PSNR, all and by group, how far the latents are from mean 0 and variance 1, and the
 * sheet. */
static status sheet(void *ctx, const char *path, record_value *out, int *n) {
    status st = OK;
    job *j = ctx;
    const train_vae_params *v = j->v;
    int channels = v->vae.latent_channels, shown = MIN(SHEET, v->n_held_out),
        columns = MIN(SHEET_COLUMNS, shown);
    measures m = {.sum = mem_zalloc(sizeof(double) * (size_t)channels),
                  .square = mem_zalloc(sizeof(double) * (size_t)channels)};
    if (!m.sum || !m.square) TRY(fail(E_HOST_MEMORY, "no host memory to measure"));
    memset(j->seen, 255, picture_elems(j) * 2 * SHEET);
    for (int i = 0; i < v->n_held_out; i += j->p->batch)
        TRY(measure_batch(j, i, MIN(j->p->batch, v->n_held_out - i), &m));
    out[(*n)++] = (record_value){"psnr", m.psnr / m.n};
    out[(*n)++] = (record_value){"latent_mean_worst", worst_moment(&m, channels, true)};
    out[(*n)++] = (record_value){"latent_std_worst", worst_moment(&m, channels, false)};
    for (int g = 0; g < v->n_groups && *n < RECORD_MAX_VALUES; g++)
        if (m.in_group[g])
            out[(*n)++] = (record_value){v->group_name[g], m.group[g] / m.in_group[g]};
    log_info("step %s: %.2f dB on %d held-out pictures", path, m.psnr / m.n, m.n);
    TRY(sheet_save(j->seen, 2 * SHEET_COLUMNS * ((shown + columns - 1) / columns), v->side,
                   SHEET_COLUMNS, path));
out:
    mem_free(m.sum);
    mem_free(m.square);
    return st;
}

static status copy_decoder(job *j) {
    status st = OK;
    float *v = NULL;
    for (int i = 0; i < j->model.n; i++) {
        const param *p = &j->model.p[i];
        int64_t n = shape_count(&p->s);
        if (!p->trainable) continue;
        mem_free(v);
        if (!(v = mem_alloc(sizeof *v * (size_t)n)))
            TRY(fail(E_HOST_MEMORY, "no host memory for %s", p->name));
        TRY(params_get(&j->model, p->name, v, n));
        TRY(params_set(&j->whole, p->name, v, n));
    }
out:
    mem_free(v);
    return st;
}

static status save(void *ctx, const char *folder) {
    job *j = ctx;
    checkpoint c = {.vae = j->v->vae};
    if (!j->v->decoder_only) return export_part(&j->model, &c, PART_VAE, folder);
    status st = copy_decoder(j);
    return st == OK ? export_part(&j->whole, &c, PART_VAE, folder) : st;
}

static status check(const train_params *p, const train_vae_params *v) {
    int f = v->vae.kind == VAE_TINY ? vae_factor(&v->vae) : 0;
    if (!f) return fail(E_UNSUPPORTED, "only AutoencoderTiny is trained from scratch");
    if (p->batch < 1 || p->batch > 1024 || p->accumulate < 1)
        return fail(E_USAGE, "batch %d: expected 1 to 1024", p->batch);
    if (v->side < f || v->side % f)
        return fail(E_USAGE, "pictures of %d px: expected a multiple of %d", v->side, f);
    if (v->decoder_only && !v->from)
        return fail(E_USAGE, "the decoder alone is trained beside an encoder that is there: give --from");
    if (v->n_groups > 64 || v->n_held_out < 1)
        return fail(E_USAGE, "%d held-out pictures in %d groups: expected 1 or more in up to 64",
                    v->n_held_out, v->n_groups);
    return OK;
}

static status prepare(job *j) {
    status st = OK;
    size_t one = picture_elems(j), batch = (size_t)j->p->batch;
    int f = vae_factor(&j->v->vae), cells = (j->v->side / f) * (j->v->side / f);
    j->rgb = mem_alloc(one * batch);
    j->px = mem_zalloc(one * batch * sizeof *j->px);
    j->latent = mem_alloc(sizeof *j->latent * batch * (size_t)(cells * j->v->vae.latent_channels));
    j->seen = mem_alloc(one * 2 * SHEET);
    if (!j->rgb || !j->px || !j->latent || !j->seen)
        TRY(fail(E_HOST_MEMORY, "no host memory for a batch of %d pictures", j->p->batch));
    TRY(vae_declare(&j->model, &j->v->vae));
    for (int i = 0; i < j->model.n; i++)
        j->model.p[i].trainable = !j->v->decoder_only || strncmp(j->model.p[i].name, "decoder.", 8) == 0;
    TRY(params_allocate(&j->model));
    TRY(init_vae_tiny(&j->model, j->p->seed));
    if (j->v->from) TRY(import_part(&j->model, PART_VAE, j->v->from));
    if (j->v->decoder_only) {
        TRY(vae_declare(&j->whole, &j->v->vae));
        TRY(params_allocate(&j->whole));
        TRY(import_part(&j->whole, PART_VAE, j->v->from));
    }
    if (j->v->judge) TRY(squeezenet_load(&j->judge, j->v->judge));
    TRY(record_step(j));
    TRY(record_eval(j));
out:
    return st;
}

status train_vae(device *dev, dtype type, const train_params *p, const train_vae_params *v) {
    status st = OK;
    job j = {.dev = dev, .type = type, .p = p, .v = v};
    params_init(&j.model, dev, type);
    params_init(&j.judge, dev, type);
    params_init(&j.whole, dev, DT_F32);
    TRY(check(p, v));
    TRY(prepare(&j));
    train_stage s = {.what = "vae",
                     .type = type,
                     .step = j.step,
                     .part = {&j.model},
                     .part_name = {"vae"},
                     .n_parts = 1,
                     .show = {"loss", "pixels", "edges", "features", "moments", "squares"},
                     .n_show = 6,
                     .feed = feed,
                     .sheet = sheet,
                     .save = save,
                     .ctx = &j};
    TRY(train_run(p, &s));
out:
    plan_destroy(j.step);
    plan_destroy(j.eval);
    params_fini(&j.judge);
    params_fini(&j.whole);
    params_fini(&j.model);
    mem_free(j.rgb);
    mem_free(j.px);
    mem_free(j.latent);
    mem_free(j.seen);
    return st;
}
