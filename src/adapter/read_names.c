/* read_names.c: from tensor names to layers. No program's spelling is parsed: the names of the
 * model's own layers are spelled each way and compared. SPDX-License-Identifier: MIT */
#include "adapter/read.h"
#include <stdio.h>
#include <stdlib.h>

static const struct suffix {
    const char *text;
    role r;
} suffixes[] = {
    {".lora_A.weight", ROLE_DOWN},
    {".lora_B.weight", ROLE_UP},
    {".lora_A", ROLE_DOWN},
    {".lora_B", ROLE_UP},
    {".lora_A.default.weight", ROLE_DOWN},
    {".lora_B.default.weight", ROLE_UP},
    {".lora_down.weight", ROLE_DOWN},
    {".lora_up.weight", ROLE_UP},
    {".lora_mid.weight", ROLE_MID},
    {".lora.down.weight", ROLE_DOWN},
    {".lora.up.weight", ROLE_UP},
    {"_lora.down.weight", ROLE_DOWN},
    {"_lora.up.weight", ROLE_UP},
    {".lora_linear_layer.down.weight", ROLE_DOWN},
    {".lora_linear_layer.up.weight", ROLE_UP},
    {".alpha", ROLE_ALPHA},
    {".lora_magnitude_vector", ROLE_MAGNITUDE},
    {".lora_magnitude_vector.weight", ROLE_MAGNITUDE},
    {".dora_scale", ROLE_MAGNITUDE},
    {".oft_R.weight", ROLE_OFT_VECTOR},
    {".oft_R.default.weight", ROLE_OFT_VECTOR},
    {".oft_R.scaled_oft", ROLE_OFT_SCALED},
    {".oft_r", ROLE_OFT_MATRIX},
    {".oft_s", ROLE_OFT_SCALE},
    {".oft_blocks", ROLE_OFT_BLOCKS},
    {".oft_diag", ROLE_OFT_DIAG},
    {".boft_R", ROLE_BOFT},
    {".boft_s", ROLE_OFT_SCALE},
    {".boft_P", ROLE_IGNORED},
    {".rescale", ROLE_RESCALE},
    {".diff", ROLE_DIFF},
    {".diff_b", ROLE_DIFF_BIAS},
    {".w_norm", ROLE_NORM},
    {".b_norm", ROLE_NORM_BIAS},
};

/* Parts of names of kinds that we know of and do not run; each: what every layer has one of. */
static const struct foreign {
    const char *part, *what, *each;
    int rank;
} foreign[] = {{".hada_w", "LoHa", ".hada_w1_a", 1},
               {".lokr_w", "LoKr", ".lokr_w1", -1},
               {".oft_blocks.", "OFT of kohya's Flux networks", ".oft_blocks.0", -1},
               {".ia3_l", "IA3", ".ia3_l", -1},
               {".oft_embedding_R", "OFT of an embedding table", ".oft_embedding_R", -1},
               {".oft_R.clipped_oft", "clipped OFT", ".oft_R.clipped_oft", -1},
               {".oft_R.cans_oft", "CANS OFT", ".oft_R.cans_oft", -1},
               {".lora_embedding_", "LoRA of an embedding table", ".lora_embedding_A", 0},
               {".set_weight", "replaced weights", ".set_weight", -1},
               {".reshape_weight", "reshaped weights", ".reshape_weight", -1},
               {".lora_B.bias", "LoRA with biases", ".lora_B.bias", -1},
               {".vera_lambda", "VeRA", ".vera_lambda_d", -1},
               {".a1.weight", "GLoRA", ".a1.weight", -1}};

static const struct prefix {
    const char *text, *part;
    bool underscores;
    spelling spelled;
} prefixes[] = {{"base_model.model.", NULL, false, SPELL_PEFT},
                {"unet.", "unet", false, SPELL_DIFFUSERS},
                {"text_encoder.", "text_encoder", false, SPELL_DIFFUSERS},
                {"text_encoder_2.", "text_encoder_2", false, SPELL_DIFFUSERS},
                {"transformer.", "transformer", false, SPELL_DIFFUSERS},
                {"lora_unet_", "unet", true, SPELL_KOHYA},
                {"lora_te_", "text_encoder", true, SPELL_KOHYA},
                {"lora_te1_", "text_encoder", true, SPELL_KOHYA},
                {"lora_te2_", "text_encoder_2", true, SPELL_KOHYA},
                {"oft_unet_", "unet", true, SPELL_KOHYA_OFT},
                {"lora_unet.", "unet", false, SPELL_KOHYA},
                {"lycoris_", NULL, true, SPELL_LYCORIS},
                {"", NULL, false, SPELL_DIFFUSERS}};

static bool starts_with(const char *s, const char *head) {
    return strncmp(s, head, strlen(head)) == 0;
}

/* Is `stem` (of n bytes) the name of a parameter "<layer>.<field>"? */
static bool names_layer(const char *stem, size_t n, bool underscores, const char *param_name,
                        const char *field) {
    size_t whole = strlen(param_name), tail = strlen(field) + 1;
    if (whole != n + tail || strcmp(param_name + n + 1, field) != 0 || param_name[n] != '.')
        return false;
    for (size_t i = 0; i < n; i++)
        if (stem[i] != param_name[i] && !(underscores && stem[i] == '_' && param_name[i] == '.'))
            return false;
    return true;
}

static const param *layer_of(const params *ps, const char *stem, size_t n, bool underscores) {
    static const char *const skipped[] = {
        "", "text_model.", "text_model_"}; /* transformers 5 names CLIP's layers without it */
    for (int i = 0; i < ps->n; i++)
        for (size_t k = 0; k < ARRAY_LEN(skipped); k++) {
            const char *name = ps->p[i].name;
            if (k == 1 && !starts_with(name, "text_model.")) continue;
            if (k == 2 && !starts_with(stem, "text_model")) continue;
            if (k == 1 && names_layer(stem, n, underscores, name + strlen(skipped[1]), "weight"))
                return &ps->p[i];
            if (k == 2 && n > strlen(skipped[2]) &&
                names_layer(stem + strlen(skipped[2]), n - strlen(skipped[2]), underscores, name,
                            "weight"))
                return &ps->p[i];
            if (k == 0 && names_layer(stem, n, underscores, name, "weight")) return &ps->p[i];
        }
    return NULL;
}

/* The role by the longest end that fits; *n gets its length. */
static role role_of(const char *name, size_t *n) {
    size_t all = strlen(name);
    role k = ROLE_COUNT;
    *n = 0;
    for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
        size_t e = strlen(suffixes[i].text);
        if (all > e && e > *n && strcmp(name + all - e, suffixes[i].text) == 0)
            *n = e, k = suffixes[i].r;
    }
    return k;
}

bool adapter_name_read(const char *name, adapter_name *out) {
    static const char *const layouts[SPELL_COUNT] = {"PEFT",  "diffusers", "kohya",
                                                     "kohya", "LyCORIS",   "cloneofsimo"};
    static const struct {
        role r;
        const char *kind;
        int rank;
    } each[] = {{ROLE_DOWN, "LoRA", 0},        {ROLE_OFT_VECTOR, "OFT", -1},
                {ROLE_OFT_MATRIX, "OFT", -1},  {ROLE_OFT_BLOCKS, "OFT", -1},
                {ROLE_BOFT, "BOFT", -1},       {ROLE_MAGNITUDE, "DoRA", -1},
                {ROLE_DIFF, "difference", -1}, {ROLE_NORM, "norm difference", -1}};
    size_t n, all = strlen(name);
    role k = role_of(name, &n);
    *out = (adapter_name){.layout = layouts[SPELL_DIFFUSERS]};
    for (size_t i = 0; i < ARRAY_LEN(prefixes); i++)
        if (starts_with(name, prefixes[i].text)) {
            out->layout = layouts[prefixes[i].spelled];
            break;
        }
    bool numbered = starts_with(name, "unet:") || starts_with(name, "text_encoder:");
    if (numbered) out->layout = layouts[SPELL_INDEX];
    if (numbered && all > 5 && strcmp(name + all - 5, ":down") == 0) k = ROLE_DOWN;
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++)
        if (strstr(name, foreign[i].each))
            return out->kind = foreign[i].what, out->rank = foreign[i].rank, true;
    for (size_t i = 0; i < ARRAY_LEN(each); i++)
        if (each[i].r == k) return out->kind = each[i].kind, out->rank = each[i].rank, true;
    return false;
}

/* "….attn1.processor.to_out" of old diffusers files -> "….attn1.to_out.0" */
static void undo_processor(char *stem) {
    char *at = strstr(stem, ".processor.");
    if (!at) return;
    memmove(at, at + strlen(".processor"), strlen(at + strlen(".processor")) + 1);
    size_t n = strlen(stem);
    if (n > 7 && strcmp(stem + n - 7, ".to_out") == 0) strcpy(stem + n, ".0");
}

/* Finds the layer that stem names; g->p NULL when it belongs to a part that is not asked for.
 * false: no layer of these models. */
static bool resolve(const reading *r, char *stem, layer_group *g) {
    bool foreign_part = false;
    undo_processor(stem);
    for (size_t k = 0; k < ARRAY_LEN(prefixes); k++) {
        const struct prefix *x = &prefixes[k];
        if (!starts_with(stem, x->text)) continue;
        const char *rest = stem + strlen(x->text);
        bool known = !x->part;
        for (int m = 0; m < r->f->n_models; m++) {
            if (x->part && strcmp(x->part, r->f->model[m].part) != 0) continue;
            known = true;
            const param *p = layer_of(r->f->model[m].ps, rest, strlen(rest), x->underscores);
            if (!p) continue;
            g->model = m;
            g->p = p;
            g->spelled = x->spelled;
            return true;
        }
        foreign_part |= !known;
        if (!known && x->text[0]) break;
    }
    g->p = NULL;
    return foreign_part;
}

static layer_group *group_at(reading *r, const layer_group *like) {
    for (int i = 0; i < r->n_groups; i++)
        if (r->group[i].p == like->p) return &r->group[i];
    if (r->n_groups == r->cap) {
        int cap = r->cap ? 2 * r->cap : 64;
        layer_group *bigger =
            mem_realloc(r->group, (size_t)r->cap * sizeof *bigger, (size_t)cap * sizeof *bigger);
        if (!bigger) return NULL;
        r->group = bigger;
        r->cap = cap;
    }
    layer_group *g = &r->group[r->n_groups++];
    *g = *like;
    snprintf(g->layer, sizeof g->layer, "%.*s", (int)(strlen(g->p->name) - strlen(".weight")),
             g->p->name);
    return g;
}

static status put(reading *r, const layer_group *like, role k, const safetensor *t) {
    if (k == ROLE_IGNORED) return OK;
    layer_group *g = group_at(r, like);
    if (!g) return fail(E_HOST_MEMORY, "no host memory to read %s", r->f->path);
    if (g->t[k])
        return fail(E_FORMAT, "%s: %s and %s are the same thing of one layer", r->f->path,
                    g->t[k]->name, t->name);
    g->t[k] = t;
    return OK;
}

static status put_named(reading *r, const safetensor *t) {
    char stem[512];
    size_t n = strlen(t->name), best;
    role k = role_of(t->name, &best);
    layer_group like = {0};
    for (size_t i = 0; i < ARRAY_LEN(foreign); i++)
        if (strstr(t->name, foreign[i].part))
            return fail(E_UNSUPPORTED,
                        "%s: tensor %s: %s is not supported; lora, dora, oft, coft, boft and full "
                        "differences are",
                        r->f->path, t->name, foreign[i].what);
    if (k == ROLE_COUNT || n - best >= sizeof stem - 2)
        return fail(E_FORMAT, "%s: tensor %s is not part of any adapter we know", r->f->path,
                    t->name);
    snprintf(stem, sizeof stem, "%.*s", (int)(n - best), t->name);
    if (!resolve(r, stem, &like))
        return fail(E_FORMAT, "%s is for another model: this one has no layer '%s'", r->f->path,
                    stem);
    if (!like.p) {
        r->f->n_skipped++;
        return OK;
    }
    return put(r, &like, k, t);
}

/* ---- cloneofsimo: layers by number, in the order in which that program met them ---- */

static const char *const unet_order[] = {"attn1.to_q",     "attn1.to_k",    "attn1.to_v",
                                         "attn1.to_out.0", "ff.net.0.proj", "attn2.to_q",
                                         "attn2.to_k",     "attn2.to_v",    "attn2.to_out.0"};
static const char *const text_order[] = {"k_proj", "v_proj", "q_proj", "out_proj"};

/* The layer with this number. first: the member of the group that every group has; the model
 * declares groups in order. */
static const param *numbered(const params *ps, const char *const *block, int n_blocks,
                             const char *first, const char *const *order, int n_order, int number) {
    int at = 0;
    char tail[64], name[256];
    snprintf(tail, sizeof tail, ".%s.weight", first);
    for (int b = 0; b < n_blocks; b++)
        for (int i = 0; i < ps->n; i++) {
            size_t n = strlen(ps->p[i].name), e = strlen(tail);
            if (!starts_with(ps->p[i].name, block[b]) || n <= e ||
                strcmp(ps->p[i].name + n - e, tail) != 0)
                continue;
            if (number < at + n_order) {
                snprintf(name, sizeof name, "%.*s.%s.weight", (int)(n - e), ps->p[i].name,
                         order[number - at]);
                return params_find(ps, name);
            }
            at += n_order;
        }
    return NULL;
}

static status put_numbered(reading *r, const safetensor *t) {
    static const char *const blocks[] = {"down_blocks.", "up_blocks.", "mid_block."}, *const any[] =
                                                                                          {""};
    bool unet = starts_with(t->name, "unet:");
    char *end = NULL;
    long number = strtol(strchr(t->name, ':') + 1, &end, 10);
    bool down = strcmp(end, ":down") == 0, known = false;
    if (number < 0 || number > 100000 || (!down && strcmp(end, ":up") != 0))
        return fail(E_FORMAT, "%s: tensor %s is not part of any adapter we know", r->f->path,
                    t->name);
    for (int m = 0; m < r->f->n_models; m++) {
        const params *ps = r->f->model[m].ps;
        if (strcmp(r->f->model[m].part, unet ? "unet" : "text_encoder") != 0) continue;
        known = true;
        layer_group g = {.model = m, .spelled = SPELL_INDEX};
        g.p = unet ? numbered(ps, blocks, 3, "attn1.to_q", unet_order, ARRAY_LEN(unet_order),
                              (int)number)
                   : numbered(ps, any, 1, "k_proj", text_order, ARRAY_LEN(text_order), (int)number);
        if (g.p) return put(r, &g, down ? ROLE_DOWN : ROLE_UP, t);
    }
    if (known)
        return fail(E_FORMAT, "%s is for another model: this one has no layer number %ld in its %s",
                    r->f->path, number, unet ? "unet" : "text encoder");
    r->f->n_skipped++;
    return OK;
}

status read_group_all(reading *r) {
    status st = OK;
    for (int64_t i = 0; i < r->s->n; i++) {
        const safetensor *t = &r->s->tensor[i];
        bool token = t->name[0] == '<' && t->name[strlen(t->name) - 1] ==
                                              '>'; /* cloneofsimo: an embedding beside the LoRA */
        if (token) continue;
        if (starts_with(t->name, "unet:") || starts_with(t->name, "text_encoder:"))
            TRY(put_numbered(r, t));
        else
            TRY(put_named(r, t));
    }
    if (r->n_groups == 0) TRY(fail(E_FORMAT, "%s holds no adapter for this model", r->f->path));
out:
    return st;
}
