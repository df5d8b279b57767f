/* read_rotations.c: the ten ways in which orthogonal adapters are stored -> oft, coft, oft_neumann
 * and boft. They differ in the side that is rotated, in the sign of Q, in how Q is stored, in the
 * series, and in what limits Q; ours: Q = (A - A^T) / 2, PEFT's sign. source  PEFT 0.13, 0.15, 0.16
 * to 0.21; LyCORIS; kohya sd-scripts networks/oft.py, oft_v2.py, boft.py; OneTrainer
 * SPDX-License-Identifier: MIT */
#include "adapter/read.h"
#include "adapter/rotation.h"
#include <math.h>

/* ---- blocks ---- */

/* g's tensor as [B, b, b] blocks along an axis of d; `whole` of them, or one for all (*share). */
static status check_blocks(const reading *r, const layer_group *g, role k, int n_dims, int64_t d,
                           int64_t *b, bool *share) {
    const safetensor *t = g->t[k];
    char text[96];
    bool fits =
        t->n_dims == n_dims && t->dim[n_dims - 1] == t->dim[n_dims - 2] && t->dim[n_dims - 1] >= 2;
    *b = fits ? t->dim[n_dims - 1] : 1;
    int64_t blocks = fits ? t->dim[n_dims - 3] : 0;
    *share = n_dims == 3 && blocks == 1 && *b < d && d % *b == 0;
    if (fits && (*share || (blocks > 0 && d % blocks == 0 && d / blocks == *b))) return OK;
    return fail(
        E_SHAPE,
        "%s is for another model: %s is %s, which does not cut the %lld of layer %s into blocks",
        r->f->path, t->name, safetensor_describe(t, text, sizeof text), (long long)d, g->layer);
}

/* Brings each of n blocks' Q into the ball; the norm is of A as stored where raw. */
static void project(float *a, int64_t n, int64_t b, double radius, bool raw) {
    for (int64_t k = 0; k < n; k++) {
        float *own = a + k * b * b;
        double sum = 0;
        for (int64_t i = 0; i < b; i++)
            for (int64_t j = 0; j < b; j++)
                sum += pow(raw ? (double)own[i * b + j]
                               : 0.5 * ((double)own[i * b + j] - (double)own[j * b + i]),
                           2);
        if (sqrt(sum) <= radius) continue;
        for (int64_t i = 0; i < b * b; i++) own[i] = (float)((double)own[i] * radius / sqrt(sum));
    }
}

static status copy(reading *r, const layer_group *g, role k, float *v, int64_t count) {
    const float *x = NULL;
    status st = read_values(r, g, k, count, &x);
    if (st == OK) memcpy(v, x, (size_t)count * sizeof *v);
    return st;
}

/* ---- a triangle of numbers: PEFT >= 0.16, kohya's oft_v2, OneTrainer ---- */

static bool read_exact_note(const reading *r) {
    const char *note = safetensors_find_note(r->s, ADAPTER_EXACT_NOTE);
    return note && strcmp(note, "exact") == 0;
}

/* How the series is to be read, which the file itself does not say. */
static status triangle_kind(reading *r, const layer_group *g, const adapter_info **info,
                            adapter_options *o) {
    bool config = read_config(r, g, "oft_block_size") || read_config(r, g, "use_cayley_neumann");
    const char *dialect = "kohya-oft-v2",
               *module = safetensors_find_note(r->s, "ss_network_module");
    *info = adapter_find("oft_neumann");
    o->terms = 5;
    if (read_exact_note(r)) {
        *info = adapter_find("oft");
        read_say(r, "imago-oft", "its note %s says so", ADAPTER_EXACT_NOTE);
        return OK;
    }
    if (read_told(r, "peft-oft-exact") ||
        (config && !read_true(r, g, "use_cayley_neumann", true))) {
        *info = adapter_find("oft");
        dialect = "peft-oft-exact";
    } else if (config) {
        o->terms = (int)read_number(r, g, "num_cayley_neumann_terms", 5);
        o->old_series = !read_config(r, g, "peft_version");
        if (read_told(r, "peft-oft")) o->old_series = false;
        dialect = o->old_series ? "peft-oft-0.16" : "peft-oft";
    } else if (read_told(r, "peft-oft") || read_told(r, "peft-oft-0.16")) {
        o->old_series = read_told(r, "peft-oft-0.16");
        dialect = o->old_series ? "peft-oft-0.16" : "peft-oft";
    } else if (g->t[ROLE_OFT_SCALED]) {
        dialect = "onetrainer-oft";
    } else if (g->spelled != SPELL_KOHYA && !module) {
        return fail(
            E_USAGE,
            "%s: %s turns one way, the other, or by another series, as adapter_config.json says, "
            "which is not here. Put it beside the "
            "file, or say peft-oft (0.18 and later), peft-oft-0.16 (and 0.17) or peft-oft-exact",
            r->f->path, g->t[ROLE_OFT_VECTOR]->name);
    }
    read_say(r, dialect, "%s is a triangle of Q%s; %s", g->t[ROLE_OFT_VECTOR]->name,
             config ? "" : " without PEFT's config",
             strcmp(dialect, "peft-oft-exact") == 0 ? "use_cayley_neumann is false"
             : strcmp(dialect, "peft-oft-0.16") == 0
                 ? "no peft_version: the series of 0.16 and 0.17"
             : strcmp(dialect, "peft-oft") == 0 ? "the series of 0.18 and later"
                                                : "convolutions turn the other way there");
    return OK;
}

static status read_triangle(reading *r, const layer_group *g) {
    status st = OK;
    const safetensor *t = g->t[ROLE_OFT_VECTOR];
    const adapter_info *info = NULL;
    adapter_options o = {0};
    float *v[ADAPTER_MAX_TENSORS];
    int64_t count[ADAPTER_MAX_TENSORS], d = shape_count(&g->p->s) / g->p->s.d[0];
    const float *x = NULL;
    char text[96];
    if (t->n_dims != 2 || t->dim[1] < 1 || t->dim[1] > 1 << 30)
        return fail(E_FORMAT, "%s: %s is %s: expected [blocks, b (b - 1) / 2]", r->f->path, t->name,
                    safetensor_describe(t, text, sizeof text));
    int64_t n = t->dim[1], b = (1 + (int64_t)sqrt(1 + 8 * (double)n)) / 2;
    o.block = (int)b;
    o.share = t->dim[0] == 1 && b < d;
    if (b * (b - 1) / 2 != n || d % b != 0 || (!o.share && t->dim[0] != d / b))
        return fail(E_SHAPE,
                    "%s is for another model: %s is %s, which does not cut the %lld of layer %s "
                    "into blocks",
                    r->f->path, t->name, safetensor_describe(t, text, sizeof text), (long long)d,
                    g->layer);
    TRY(triangle_kind(r, g, &info, &o));
    TRY(read_add(r, g, info, &o, v, count));
    TRY(read_values(r, g, ROLE_OFT_VECTOR, t->dim[0] * n, &x));
    bool kohya = !read_config(r, g, "oft_block_size") &&
                 (g->spelled == SPELL_KOHYA || g->t[ROLE_OFT_SCALED]);
    double scale = g->t[ROLE_OFT_SCALED] ? 1 / (2 * sqrt((double)b - 1)) : 1;
    if (kohya && g->p->s.n == 4) scale = -scale; /* W R where everybody else has W R^T */
    if (read_exact_note(r))
        scale = -scale; /* stored so that kohya's series nearly turns as we do */
    for (int64_t k = 0; k < t->dim[0]; k++)
        for (int64_t i = 0, at = 0; i < b; i++)
            for (int64_t j = i + 1; j < b; j++, at++) {
                v[0][(k * b + i) * b + j] = (float)(scale * (double)x[k * n + at]);
                v[0][(k * b + j) * b + i] = -v[0][(k * b + i) * b + j];
            }
    if (read_true(r, g, "coft", false))
        project(v[0], t->dim[0], b, read_number(r, g, "eps", 6e-5) / sqrt((double)t->dim[0]),
                false);
out:
    return st;
}

/* ---- whole matrices A, half their skew part, PEFT's sign: PEFT < 0.16 and BOFT ---- */

static status read_matrices(reading *r, const layer_group *g) {
    status st = OK;
    bool boft = g->t[ROLE_BOFT] != NULL, first = !boft && !g->t[ROLE_OFT_SCALE];
    role k = boft ? ROLE_BOFT : ROLE_OFT_MATRIX;
    float *v[ADAPTER_MAX_TENSORS];
    int64_t count[ADAPTER_MAX_TENSORS], out = g->p->s.d[0],
                                        d = first ? out : shape_count(&g->p->s) / out, b = 0;
    adapter_options o = {.output_side = first, .row_scale = g->t[ROLE_OFT_SCALE] != NULL};
    TRY(check_blocks(r, g, k, boft ? 4 : 3, d, &b, &o.share));
    if (boft && (g->t[k]->dim[0] < 1 || g->t[k]->dim[0] > ADAPTER_MAX_FACTORS))
        TRY(fail(E_UNSUPPORTED, "%s: %s has %lld butterfly factors: 1 to %d are supported",
                 r->f->path, g->t[k]->name, (long long)g->t[k]->dim[0], ADAPTER_MAX_FACTORS));
    o.block = (int)b;
    o.factors = boft ? (int)g->t[k]->dim[0] : 0;
    TRY(read_add(r, g, adapter_find(boft ? "boft" : "oft"), &o, v, count));
    TRY(copy(r, g, k, v[0], count[0]));
    if (o.row_scale) TRY(copy(r, g, ROLE_OFT_SCALE, v[1], count[1]));
    if (!boft && read_true(r, g, "coft", false)) {
        double blocks = read_number(r, g, "r", (double)g->t[k]->dim[0]),
               radius = read_number(r, g, "eps", 6e-5) * pow(ceil((double)out / blocks), 2);
        project(v[0], g->t[k]->dim[0], b, radius / sqrt((double)g->t[k]->dim[0]), true);
    }
    if (boft)
        read_say(r, g->spelled == SPELL_KOHYA ? "kohya-boft" : "peft-boft",
                 "%s has %d factors of blocks of %d", g->t[k]->name, o.factors, o.block);
    else
        read_say(r, first ? "peft-oft-0.7" : "peft-oft-0.14", "%s %s", g->t[k]->name,
                 first ? "without .oft_s: PEFT 0.7 to 0.13, which turned the output"
                       : "with .oft_s: PEFT 0.14 and 0.15");
out:
    return st;
}

/* ---- LyCORIS and kohya's first oft: Q = A - A^T, the other sign, on the output side ---- */

/* Index in LyCORIS's order, which interleaves the halves of a butterfly block, of our index e. */
static int64_t interleaved(int64_t e, int64_t b) { return 2 * (e % (b / 2)) + e / (b / 2); }

static status read_blocks(reading *r, const layer_group *g) {
    status st = OK;
    const safetensor *t = g->t[ROLE_OFT_BLOCKS];
    bool boft = t->n_dims == 4;
    float *v[ADAPTER_MAX_TENSORS];
    int64_t count[ADAPTER_MAX_TENSORS], b = 0, out = g->p->s.d[0];
    const float *x = NULL;
    adapter_options o = {
        .output_side = true, .row_scale = g->t[ROLE_RESCALE] != NULL, .ascending = boft};
    TRY(check_blocks(r, g, ROLE_OFT_BLOCKS, boft ? 4 : 3, out, &b, &o.share));
    if (boft && (t->dim[0] < 1 || t->dim[0] > ADAPTER_MAX_FACTORS || (t->dim[0] > 1 && b % 2)))
        TRY(fail(E_UNSUPPORTED, "%s: %s: 1 to %d butterfly factors of even blocks are supported",
                 r->f->path, t->name, ADAPTER_MAX_FACTORS));
    o.block = (int)b;
    o.factors = boft ? (int)t->dim[0] : 0;
    TRY(read_add(r, g, adapter_find(boft ? "boft" : "oft"), &o, v, count));
    TRY(read_values(r, g, ROLE_OFT_BLOCKS, count[0], &x));
    double norm = 0, alpha = g->t[ROLE_ALPHA] ? safetensor_load(g->t[ROLE_ALPHA], 0) : 0,
           most = alpha * (double)out;
    for (int64_t k = 0; k < count[0] / (b * b); k++)
        for (int64_t i = 0; i < b; i++)
            for (int64_t j = 0; j < b; j++) {
                int64_t fi = boft && o.factors > 0 && b % 2 == 0 ? interleaved(i, b) : i,
                        fj = boft && b % 2 == 0 ? interleaved(j, b) : j;
                double q = (double)x[(k * b + fi) * b + fj] - (double)x[(k * b + fj) * b + fi];
                norm += q * q;
                v[0][(k * b + i) * b + j] =
                    (float)(boft ? q : -q); /* boft multiplies by R, diag-oft by R^T */
            }
    norm = sqrt(norm) + 1e-8;
    if (alpha > 0 && norm > most)
        for (int64_t i = 0; i < count[0]; i++) v[0][i] = (float)((double)v[0][i] * most / norm);
    if (o.row_scale) TRY(copy(r, g, ROLE_RESCALE, v[1], count[1]));
    read_say(r,
             boft                            ? "lycoris-boft"
             : g->spelled == SPELL_KOHYA_OFT ? "kohya-oft"
                                             : "lycoris-oft",
             "%s has %d dimensions%s%s", t->name, t->n_dims,
             g->spelled == SPELL_KOHYA_OFT ? " under oft_unet_" : "",
             alpha > 0 ? "; alpha limits Q" : "");
out:
    return st;
}

/* R itself, on the output side: y R. Q = -(R - I)(R + I)^-1 in our sign. */
static status read_diag(reading *r, const layer_group *g) {
    status st = OK;
    float *v[ADAPTER_MAX_TENSORS];
    int64_t count[ADAPTER_MAX_TENSORS], b = 0;
    const float *x = NULL;
    adapter_options o = {.output_side = true, .row_scale = g->t[ROLE_RESCALE] != NULL};
    double *work = NULL;
    TRY(check_blocks(r, g, ROLE_OFT_DIAG, 3, g->p->s.d[0], &b, &o.share));
    o.block = (int)b;
    TRY(read_add(r, g, adapter_find("oft"), &o, v, count));
    TRY(read_values(r, g, ROLE_OFT_DIAG, count[0], &x));
    if (!(work = mem_alloc((size_t)(2 * b * b) * sizeof *work)))
        TRY(fail(E_HOST_MEMORY, "no host memory to read %s", r->f->path));
    for (int64_t k = 0; k < count[0] / (b * b); k++)
        if (!rotation_log(b, x + k * b * b, v[0] + k * b * b, work))
            TRY(fail(E_FORMAT,
                     "%s: block %lld of %s is not a rotation that a Cayley transform gives",
                     r->f->path, (long long)k, g->t[ROLE_OFT_DIAG]->name));
    if (o.row_scale) TRY(copy(r, g, ROLE_RESCALE, v[1], count[1]));
    read_say(r, "lycoris-oft-diag", "%s holds rotations themselves, as the first LyCORIS did",
             g->t[ROLE_OFT_DIAG]->name);
out:
    mem_free(work);
    return st;
}

status read_rotation(reading *r, const layer_group *g) {
    if (g->t[ROLE_OFT_VECTOR]) return read_triangle(r, g);
    if (g->t[ROLE_BOFT] || g->t[ROLE_OFT_MATRIX]) return read_matrices(r, g);
    return g->t[ROLE_OFT_BLOCKS] ? read_blocks(r, g) : read_diag(r, g);
}
