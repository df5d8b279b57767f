/* write_config.c: what stands beside the tensors: PEFT's adapter_config.json, kohya's ss_*
 * metadata. SPDX-License-Identifier: MIT */
#include "adapter/rotation.h"
#include "adapter/write.h"
#include <stdio.h>

/* text + more, in the arena; NULL when memory is short */
static const char *joined(writing *w, const char *text, const char *more) {
    return text && more ? arena_printf(&w->mem, "%s%s", text, more) : NULL;
}

static const char *quoted(writing *w, const char *s) {
    char *q = s ? arena_alloc(&w->mem, 2 * strlen(s) + 3) : NULL, *at = q;
    if (!s) return "null";
    if (!q) return NULL;
    *at++ = '"';
    for (; *s; s++) {
        if (*s == '"' || *s == '\\') *at++ = '\\';
        if ((unsigned char)*s >= 0x20) *at++ = *s;
    }
    *at = '"';
    return q;
}

/* Every layer's name, or the layers whose number differs from that of most as "name": number. */
static const char *each_layer(writing *w, double (*number)(const adapter_site *), double usual) {
    const char *text = "";
    bool first = true;
    for (int i = 0; i < w->source->model->n; i++) {
        char layer[128], value[48] = "";
        adapter_site s;
        if (!adapter_site_at(w->source->set, w->source->model, i, layer, &s)) continue;
        if (number && number(&s) == usual) continue;
        if (number) snprintf(value, sizeof value, ": %.9g", number(&s));
        text =
            joined(w, text, arena_printf(&w->mem, "%s\"%s\"%s", first ? "" : ", ", layer, value));
        first = false;
    }
    return text;
}

static double rank_of(const adapter_site *s) { return s->opts->rank; }
static double alpha_of(const adapter_site *s) {
    return s->opts->alpha == 0 ? (double)s->opts->rank : (double)s->opts->alpha;
}

static status lora_fields(writing *w, const char **text) {
    const adapter_options *o = &w->opts;
    double alpha = o->alpha == 0 ? (double)o->rank : (double)o->alpha;
    const char *ranks = each_layer(w, rank_of, o->rank), *alphas = each_layer(w, alpha_of, alpha);
    *text = ranks && alphas
                ? arena_printf(&w->mem,
                               "\"peft_type\": \"LORA\", \"r\": %d, \"lora_alpha\": %.9g, "
                               "\"lora_dropout\": 0.0, \"use_rslora\": %s, \"use_dora\": %s, "
                               "\"rank_pattern\": {%s}, \"alpha_pattern\": {%s}, "
                               "\"init_lora_weights\": true, \"fan_in_fan_out\": false",
                               o->rank, alpha, o->rslora ? "true" : "false",
                               o->dora ? "true" : "false", ranks, alphas)
                : NULL;
    return OK;
}

/* The wish from which PEFT's rule gives every layer the blocks it has: the largest found. */
static status block_wish(writing *w, int64_t *wish) {
    status st = OK;
    *wish = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < w->source->model->n; i++) {
            char layer[128];
            adapter_site s;
            adapter_tensor t[ADAPTER_MAX_TENSORS];
            int n = 0;
            if (!adapter_site_at(w->source->set, w->source->model, i, layer, &s)) continue;
            TRY(s.info->tensors(&s, t, &n));
            int64_t b = t[0].s.d[3];
            if (pass == 0)
                *wish = w->opts.block > 0 && !w->source->set->entry ? w->opts.block : MAX(*wish, b);
            else if (adapter_block(rotation_axis(&s), *wish) != b)
                TRY(write_refuse(w, &s, "PEFT has one block size for all layers"));
        }
out:
    return st;
}

static status oft_fields(writing *w, bool series, const char **text) {
    int64_t wish = 0;
    status st = block_wish(w, &wish);
    *text =
        arena_printf(&w->mem,
                     "\"peft_type\": \"OFT\", \"r\": 0, \"oft_block_size\": %lld, "
                     "\"module_dropout\": 0.0, \"fan_in_fan_out\": false, \"init_weights\": true, "
                     "\"coft\": false, \"eps\": 6e-05, \"block_share\": %s, "
                     "\"use_cayley_neumann\": %s, \"num_cayley_neumann_terms\": %d",
                     (long long)wish, w->opts.share ? "true" : "false", series ? "true" : "false",
                     w->opts.terms ? w->opts.terms : 5);
    return st;
}

static status exact_fields(writing *w, const char **text) { return oft_fields(w, false, text); }
static status series_fields(writing *w, const char **text) { return oft_fields(w, true, text); }

static status boft_fields(writing *w, const char **text) {
    int64_t wish = 0;
    status st = block_wish(w, &wish);
    *text = arena_printf(&w->mem,
                         "\"peft_type\": \"BOFT\", \"boft_block_size\": %lld, \"boft_block_num\": "
                         "0, \"boft_n_butterfly_factor\": %d, \"boft_dropout\": 0.0, "
                         "\"fan_in_fan_out\": false, \"init_weights\": true",
                         (long long)wish, w->opts.factors ? w->opts.factors : 1);
    return st;
}

static const struct kind {
    const char *name, *module;
    status (*fields)(writing *w, const char **text);
} kinds[] = {
    {"lora", "networks.lora", lora_fields},    {"oft", "networks.oft_v2", exact_fields},
    {"coft", "networks.oft_v2", exact_fields}, {"oft_neumann", "networks.oft_v2", series_fields},
    {"boft", "networks.boft", boft_fields},    {"diff", "lycoris.kohya", NULL}};

static const struct kind *kind_of(const adapter_info *info) {
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (strcmp(kinds[i].name, info->name) == 0) return &kinds[i];
    return NULL;
}

status write_peft_config(writing *w, const char **text) {
    status st = OK;
    const struct kind *k = kind_of(w->info);
    const char *fields = NULL, *names = each_layer(w, NULL, 0), *base = quoted(w, w->p->base);
    if (!k || !k->fields)
        return fail(E_UNSUPPORTED, "%s: PEFT knows no %s", w->path, w->info->name);
    TRY(k->fields(w, &fields));
    *text =
        fields && names && base
            ? arena_printf(
                  &w->mem,
                  "{\n%s,\n\"peft_version\": \"0.18.0\", \"base_model_name_or_path\": %s, "
                  "\"revision\": null, \"task_type\": null, \"inference_mode\": true, "
                  "\"bias\": \"none\", \"modules_to_save\": null,\n\"target_modules\": [%s]\n}\n",
                  fields, base, names)
            : NULL;
    if (!*text) TRY(fail(E_HOST_MEMORY, "no host memory to write %s", w->path));
out:
    return st;
}

static status note(writing *w, const char *key, const char *value) {
    if (!value) return fail(E_HOST_MEMORY, "no host memory to write %s", w->path);
    for (int i = 0; i < w->n_notes; i++)
        if (strcmp(w->note[i].key, key) == 0) return OK; /* the caller's word stands */
    if (w->n_notes == (int)ARRAY_LEN(w->note))
        return fail(E_USAGE, "%s: more than %zu notes", w->path, ARRAY_LEN(w->note));
    w->note[w->n_notes++] = (safetensor_note){key, value};
    return OK;
}

status write_notes(writing *w) {
    status st = OK;
    for (int i = 0; i < w->p->n_notes; i++) TRY(note(w, w->p->notes[i].key, w->p->notes[i].value));
    TRY(note(w, "format", "pt"));
    if (w->p->format == ADAPTER_DIFFUSERS || w->p->format == ADAPTER_PEFT) return OK;
    const struct kind *k = kind_of(w->info);
    const adapter_options *o = &w->opts;
    bool lora = w->p->format == ADAPTER_SVD || o->rank > 0, whole = w->p->format == ADAPTER_DIFF;
    int dim = w->p->format == ADAPTER_SVD ? w->p->svd_rank : lora ? o->rank : o->block;
    TRY(note(w, "ss_network_module",
             whole            ? "lycoris.kohya"
             : lora           ? "networks.lora"
             : o->output_side ? "lycoris.kohya"
             : k              ? k->module
                              : "networks.lora"));
    TRY(note(w, "ss_network_dim", arena_printf(&w->mem, "%d", dim)));
    TRY(note(w, "ss_network_alpha",
             arena_printf(&w->mem, "%.9g",
                          lora && w->p->format != ADAPTER_SVD && o->alpha > 0 ? (double)o->alpha
                                                                              : (double)dim)));
    TRY(note(w, "ss_network_args",
             whole            ? "{\"algo\": \"full\"}"
             : o->output_side ? "{\"algo\": \"diag-oft\"}"
                              : "{}"));
    TRY(note(w, "ss_v2", "False"));
    TRY(note(w, "modelspec.sai_model_spec", "1.0.1"));
    TRY(note(w, "modelspec.implementation", "diffusers"));
    bool exact = strcmp(w->info->name, "oft") == 0 || strcmp(w->info->name, "coft") == 0;
    if (exact && w->p->format == ADAPTER_KOHYA && !o->output_side)
        TRY(note(w, ADAPTER_EXACT_NOTE, "exact"));
out:
    return st;
}
