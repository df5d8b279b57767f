/* adapter.c: the table of adapters, which layers they attach to, and a layer with its stack of
 * adapters. The one idea of the stack: up to the last adapter that needs the weight, all change the
 * weight; those after it work on what goes in and comes out, the last one outermost.
 * SPDX-License-Identifier: MIT */
#include "adapter/adapter.h"
#include <stdio.h>

#define ADAPTER(name) extern const adapter_info adapter_##name##_info;
#include "adapter/adapters.def"
#undef ADAPTER

static const adapter_info *const infos[] = {
#define ADAPTER(name) &adapter_##name##_info,
#include "adapter/adapters.def"
#undef ADAPTER
};

const adapter_info *adapter_at(int i) {
    return i >= 0 && (size_t)i < ARRAY_LEN(infos) ? infos[i] : NULL;
}

const adapter_info *adapter_find(const char *name) {
    for (size_t i = 0; i < ARRAY_LEN(infos); i++)
        if (strcmp(infos[i]->name, name) == 0) return infos[i];
    return NULL;
}

/* "to_q" is the end of "attn1.to_q" and of nothing that merely ends in these letters. */
static bool ends_in(const char *layer, const char *target) {
    size_t n = strlen(layer), k = strlen(target);
    return n >= k && strcmp(layer + n - k, target) == 0 && (n == k || layer[n - k - 1] == '.');
}

bool adapter_site_of(const adapter_set *a, const char *layer, shape w, const char *at,
                     adapter_site *s) {
    *s = (adapter_site){.info = a->info,
                        .opts = &a->opts,
                        .ps = a->ps,
                        .left = a->left,
                        .layer = layer,
                        .w = w,
                        .strength = a->strength,
                        .seed = a->seed,
                        .step = a->step,
                        .at = at};
    for (int i = 0; i < a->n_entries; i++)
        if (strcmp(a->entry[i].layer, layer) == 0) {
            s->info = a->entry[i].info;
            s->opts = &a->entry[i].opts;
            return true;
        }
    for (int i = 0; a->targets && a->targets[i]; i++)
        if (ends_in(layer, a->targets[i])) return true;
    return false;
}

int64_t adapter_block(int64_t d, int64_t want) {
    if (want >= d) return d;
    for (int64_t off = 0; off < d; off++) {
        if (want - off >= 1 && d % (want - off) == 0) return want - off;
        if (want + off <= d && d % (want + off) == 0) return want + off;
    }
    return d;
}

/* ---- parameters ---- */

static const char *key_of(const adapter_site *s, const char *key, char name[ADAPTER_KEY_BYTES]) {
    snprintf(name, ADAPTER_KEY_BYTES, "%s%s", s->layer, key);
    return name;
}

tensor *adapter_param(graph *g, const adapter_site *s, const char *key) {
    char name[ADAPTER_KEY_BYTES];
    return params_tensor(s->ps, g, key_of(s, key, name), s->at);
}

static status declare(const adapter_site *s) {
    status st = OK;
    adapter_tensor t[ADAPTER_MAX_TENSORS];
    int n = 0;
    char name[ADAPTER_KEY_BYTES];
    if (s->ps->type != DT_F32)
        return fail(E_USAGE, "%s: an adapter's parameters are kept in f32, not %s", s->layer,
                    dtype_name(s->ps->type));
    TRY(s->info->tensors(s, t, &n));
    for (int i = 0; i < n; i++) {
        TRY(params_declare(s->ps, key_of(s, t[i].key, name), t[i].s, t[i].vector));
        params_find(s->ps, name)->trainable = true;
    }
out:
    return st;
}

/* ---- recording ---- */

tensor *adapter_scaled(graph *g, const adapter_site *s, tensor *x) {
    if (!s->strength) return x;
    shape per = {.n = x->s.n};
    for (int i = 0; i < per.n; i++) per.d[i] = 1;
    per.d[0] = tensor_count(s->strength);
    return op_binary_(g, x, op_cast_(g, op_reshape_(g, s->strength, per, s->at), x->dtype, s->at),
                      B_MUL, s->at);
}

static tensor *plain(graph *g, const adapter_call *c, tensor *x, tensor *w, tensor *bias,
                     tensor *residual) {
    if (c->conv) return op_conv2d_(g, x, w, bias, residual, *c->conv, c->at);
    return op_matmul_(g, x, w, bias, residual, (matmul_attrs){.trans_b = 1, .out = DT_COUNT},
                      c->at);
}

static tensor *with_sites(graph *g, const adapter_call *c, const adapter_site *s, int n,
                          int by_weight) {
    tensor *x[ADAPTER_MAX_STACK + 1], *w = c->w;
    bool late = false;
    for (int i = 0; i < by_weight; i++) w = s[i].info->weight(g, &s[i], w);
    x[n] = c->x;
    for (int i = n - 1; i >= by_weight; i--) {
        x[i] = s[i].info->input ? s[i].info->input(g, &s[i], x[i + 1]) : x[i + 1];
        late |= s[i].info->scales_output && s[i].info->scales_output(&s[i]);
    }
    tensor *y = plain(g, c, x[by_weight], w, late ? NULL : c->bias, late ? NULL : c->residual);
    for (int i = by_weight; i < n; i++)
        if (s[i].info->output) y = s[i].info->output(g, &s[i], x[i], y);
    if (late && c->bias) y = op_binary_(g, y, op_cast_(g, c->bias, y->dtype, c->at), B_ADD, c->at);
    return late && c->residual ? op_binary_(g, y, c->residual, B_ADD, c->at) : y;
}

/* Batch entries with strengths of their own, where the adapter has no form for that: each entry by
 * itself. */
static tensor *by_entry(graph *g, const adapter_call *c, const adapter_site *s, int n,
                        int by_weight) {
    int64_t entries = c->x->s.d[0];
    tensor *y = NULL, *part[8];
    int held = 0;
    for (int64_t e = 0; e < entries; e++) {
        adapter_call one = *c;
        adapter_site own[ADAPTER_MAX_STACK];
        one.x = op_slice_(g, c->x, 0, e, e + 1, c->at);
        if (c->residual) one.residual = op_slice_(g, c->residual, 0, e, e + 1, c->at);
        for (int i = 0; i < n; i++) {
            own[i] = s[i];
            if (s[i].strength && tensor_count(s[i].strength) > 1)
                own[i].strength = op_slice_(g, op_reshape_(g, s[i].strength, SHAPE(entries), c->at),
                                            0, e, e + 1, c->at);
        }
        part[held++] = with_sites(g, &one, own, n, by_weight);
        if (held < (int)ARRAY_LEN(part) && e + 1 < entries) continue;
        y = held > 1 ? op_concat_(g, part, held, 0, c->at) : part[0];
        part[0] = y;
        held = 1;
    }
    return y;
}

tensor *adapter_layer(graph *g, const adapter_set *first, const adapter_call *c) {
    adapter_site s[ADAPTER_MAX_STACK];
    int n = 0, by_weight = 0;
    bool split = false;
    for (const adapter_set *a = first; a; a = a->next) {
        adapter_site own;
        if (!adapter_site_of(a, c->layer, c->w_shape, c->at, &own)) continue;
        if (n == ADAPTER_MAX_STACK) {
            graph_fail(g, c->at, E_UNSUPPORTED,
                       "%s: at most %d adapters on one layer; merge some into the model", c->layer,
                       ADAPTER_MAX_STACK);
            break;
        }
        own.conv = c->conv;
        status st = a->ps->declaring ? declare(&own) : OK;
        if (st != OK) graph_fail(g, c->at, st, "%s", error_message());
        if (st != OK) break;
        s[n++] = own;
        if (own.info->by_weight && own.info->by_weight(&own)) by_weight = n;
    }
    for (int i = 0; i < n; i++) {
        int64_t k = s[i].strength ? tensor_count(s[i].strength) : 1;
        if (k > 1 && k != c->x->s.d[0])
            graph_fail(g, c->at, E_SHAPE, "%s: %lld strengths for a batch of %lld", c->layer,
                       (long long)k, (long long)c->x->s.d[0]);
        split |= k > 1 && (i < by_weight || !s[i].info->per_entry);
    }
    if (graph_status(g) != OK || n == 0) return plain(g, c, c->x, c->w, c->bias, c->residual);
    return split ? by_entry(g, c, s, n, by_weight) : with_sites(g, c, s, n, by_weight);
}

/* ---- every site of a model ---- */

bool adapter_site_at(const adapter_set *a, const params *model, int i, char layer[128],
                     adapter_site *s) {
    const param *p = &model->p[i];
    size_t n = strlen(p->name);
    if (p->vector || (p->s.n != 2 && p->s.n != 4) || n < 8 ||
        strcmp(p->name + n - 7, ".weight") != 0)
        return false;
    snprintf(layer, 128, "%.*s", (int)(n - 7), p->name);
    return adapter_site_of(a, layer, p->s, HERE, s);
}

/* One block holding the values of every trainable of a site, zeroed; v[i] point into it. */
static status values_alloc(const adapter_site *s, adapter_tensor t[], float *v[], int *n) {
    status st = OK;
    int64_t total = 0;
    TRY(s->info->tensors(s, t, n));
    for (int i = 0; i < *n; i++) total += shape_count(&t[i].s);
    if (!(v[0] = mem_zalloc((size_t)MAX(total, 1) * sizeof *v[0])))
        TRY(fail(E_HOST_MEMORY, "no host memory for the adapter of %s", s->layer));
    for (int i = 1; i < *n; i++) v[i] = v[i - 1] + shape_count(&t[i - 1].s);
out:
    return st;
}

status adapter_values(const adapter_site *s, adapter_tensor t[ADAPTER_MAX_TENSORS],
                      float *v[ADAPTER_MAX_TENSORS], int *n) {
    status st = OK;
    char name[ADAPTER_KEY_BYTES];
    for (int i = 0; i < ADAPTER_MAX_TENSORS; i++) v[i] = NULL;
    TRY(values_alloc(s, t, v, n));
    for (int i = 0; i < *n; i++)
        TRY(params_get(s->ps, key_of(s, t[i].key, name), v[i], shape_count(&t[i].s)));
out:
    return st;
}

static status weight_get(params *model, const param *p, float **w) {
    int64_t n = shape_count(&p->s);
    *w = mem_alloc((size_t)n * sizeof **w);
    if (!*w) return fail(E_HOST_MEMORY, "no host memory for %s", p->name);
    return params_get(model, p->name, *w, n);
}

static status init_site(const adapter_site *s, params *model, const param *p, uint32_t seed) {
    status st = OK;
    adapter_tensor t[ADAPTER_MAX_TENSORS];
    float *v[ADAPTER_MAX_TENSORS] = {0}, *w = NULL;
    int n = 0;
    char name[ADAPTER_KEY_BYTES];
    TRY(values_alloc(s, t, v, &n));
    if (s->info->init && s->opts->dora) TRY(weight_get(model, p, &w));
    if (s->info->init) s->info->init(s, v, w, seed);
    for (int i = 0; i < n; i++)
        TRY(params_set(s->ps, key_of(s, t[i].key, name), v[i], shape_count(&t[i].s)));
out:
    mem_free(w);
    mem_free(v[0]);
    return st;
}

status adapter_init_all(const adapter_set *a, params *model, uint32_t seed) {
    status st = OK;
    for (int i = 0; i < model->n; i++) {
        char layer[128];
        adapter_site s;
        if (adapter_site_at(a, model, i, layer, &s)) TRY(init_site(&s, model, &model->p[i], seed));
    }
out:
    return st;
}

void adapter_project_all(graph *g, const adapter_set *a, const params *model) {
    for (int i = 0; i < model->n; i++) {
        char layer[128];
        adapter_site s;
        if (adapter_site_at(a, model, i, layer, &s) && s.info->project) s.info->project(g, &s);
    }
}

int64_t adapter_effective_count(const adapter_set *a, const params *model) {
    int64_t total = 0;
    for (int i = 0; i < model->n; i++) {
        char layer[128];
        adapter_site s;
        adapter_tensor t[ADAPTER_MAX_TENSORS];
        int n = 0;
        if (!adapter_site_at(a, model, i, layer, &s) || s.info->tensors(&s, t, &n) != OK) continue;
        for (int k = 0; k < n; k++) {
            int64_t count = shape_count(&t[k].s), b = t[k].s.d[t[k].s.n - 1];
            total += t[k].skew ? count / (2 * b) * (b - 1) : count;
        }
    }
    return total;
}

static status merge_site(const adapter_site *s, params *model, const param *p, double m,
                         bool inverse) {
    status st = OK;
    adapter_tensor t[ADAPTER_MAX_TENSORS];
    float *v[ADAPTER_MAX_TENSORS] = {0}, *w = NULL;
    int n = 0;
    TRY(adapter_values(s, t, v, &n));
    TRY(weight_get(model, p, &w));
    TRY(s->info->merge(s, (const float *const *)v, m, inverse, w));
    TRY(params_set(model, p->name, w, shape_count(&p->s)));
out:
    mem_free(w);
    mem_free(v[0]);
    return st;
}

status adapter_merge_all(const adapter_set *a, params *model, double m, bool inverse) {
    status st = OK;
    for (int i = 0; i < model->n; i++) {
        char layer[128];
        adapter_site s;
        if (adapter_site_at(a, model, i, layer, &s))
            TRY(merge_site(&s, model, &model->p[i], m, inverse));
    }
out:
    return st;
}
