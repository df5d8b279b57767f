/* checkpoint_config.c: the config.json of diffusers' UNet2DConditionModel, AutoencoderKL,
 * AutoencoderTiny and of transformers' CLIPTextModel. Absent fields have the library's defaults. A
 * field that changes the mathematics in a way we do not compute is refused by name; fields that
 * only matter for training or speed are not looked at. The reader is sticky: the first bad field is
 * kept, what follows is harmless. SPDX-License-Identifier: MIT */
#include "family/checkpoint_parts.h"
#include <cjson/cJSON.h>
#include <stdio.h>

typedef struct reader {
    const json *j;
    const char *what;
    status st;
} reader;

/* The field; NULL when absent, null, or after a failure. */
static const json *field(reader *r, const char *name) {
    const json *f = cJSON_GetObjectItemCaseSensitive(r->j, name);
    return r->st != OK || !f || cJSON_IsNull(f) ? NULL : f;
}

static bool whole(const json *f, int lo, int hi) {
    return cJSON_IsNumber(f) && f->valuedouble >= lo && f->valuedouble <= hi &&
           f->valuedouble == (double)(int)f->valuedouble;
}

static int read_int(reader *r, const char *name, int otherwise, int lo, int hi) {
    const json *f = field(r, name);
    if (!f) return otherwise;
    if (whole(f, lo, hi)) return (int)f->valuedouble;
    r->st = fail(E_FORMAT, "%s: %s is not a whole number from %d to %d", r->what, name, lo, hi);
    return otherwise;
}

static double read_number(reader *r, const char *name, double otherwise, double lo, double hi) {
    const json *f = field(r, name);
    if (!f) return otherwise;
    if (cJSON_IsNumber(f) && f->valuedouble >= lo && f->valuedouble <= hi) return f->valuedouble;
    r->st = fail(E_FORMAT, "%s: %s is not a number from %g to %g", r->what, name, lo, hi);
    return otherwise;
}

static bool read_bool(reader *r, const char *name, bool otherwise) {
    const json *f = field(r, name);
    if (!f) return otherwise;
    if (!cJSON_IsBool(f)) r->st = fail(E_FORMAT, "%s: %s is neither true nor false", r->what, name);
    return cJSON_IsTrue(f);
}

/* A list of n numbers, or one that stands for all. */
static void read_ints(reader *r, const char *name, int otherwise, int n, int lo, int hi, int *out) {
    const json *f = field(r, name);
    bool list = f && cJSON_IsArray(f);
    if (list && cJSON_GetArraySize(f) != n)
        r->st = fail(E_FORMAT, "%s: %s has %d entries, the model has %d levels", r->what, name,
                     cJSON_GetArraySize(f), n);
    const json *e = list && r->st == OK ? f->child : f;
    for (int i = 0; i < n; i++) {
        out[i] = otherwise;
        if (!f || r->st != OK) continue;
        if (!whole(e, lo, hi))
            r->st = fail(E_FORMAT, "%s: %s: entry %d is not a whole number from %d to %d", r->what,
                         name, i, lo, hi);
        else
            out[i] = (int)e->valuedouble;
        if (list) e = e->next;
    }
}

/* The same where all entries must agree. */
static int read_one_int(reader *r, const char *name, int otherwise, int n, int lo, int hi) {
    int v[MAX(UNET_MAX_LEVELS, VAE_MAX_LEVELS)] = {0};
    read_ints(r, name, otherwise, n, lo, hi, v);
    for (int i = 1; i < n && r->st == OK; i++)
        if (v[i] != v[0])
            r->st = fail(E_UNSUPPORTED, "%s: %s differs between levels, which we cannot run",
                         r->what, name);
    return v[0];
}

static int read_levels(reader *r, const char *name, int otherwise, int most) {
    const json *f = field(r, name);
    if (!f) return otherwise;
    int n = cJSON_IsArray(f) ? cJSON_GetArraySize(f) : 0;
    if (n < 1 || n > most)
        r->st = fail(E_FORMAT, "%s: %s is not a list of 1 to %d entries", r->what, name, most);
    return n < 1 || n > most ? 1 : n;
}

/* Entry i of a list of n block types: which of the two words it is. */
static bool read_block(reader *r, const char *name, int i, int n, bool otherwise, const char *yes,
                       const char *no) {
    const json *f = field(r, name);
    if (!f) return otherwise;
    if (!cJSON_IsArray(f) || cJSON_GetArraySize(f) != n) {
        r->st =
            fail(E_FORMAT, "%s: %s is not a list of %d entries, one per level", r->what, name, n);
        return false;
    }
    const char *text = cJSON_GetStringValue(cJSON_GetArrayItem(f, i));
    if (text && strcmp(text, yes) == 0) return true;
    if (!text || !no || strcmp(text, no) != 0)
        r->st = fail(E_UNSUPPORTED, "%s: %s: '%.60s' is not a block we can run (%s%s%s)", r->what,
                     name, text ? text : "?", yes, no ? ", " : "", no ? no : "");
    return false;
}

/* Fields with one value that we compute. value NULL: null or false; else a string or a number in
 * words. */
typedef struct fixed {
    const char *name, *value;
} fixed;

static bool is_fixed(const json *f, const char *value) {
    if (!value) return cJSON_IsFalse(f) || (cJSON_IsArray(f) && !f->child);
    char number[32];
    if (cJSON_IsString(f))
        return strcmp(f->valuestring, value) == 0 ||
               (!strcmp(value, "silu") && !strcmp(f->valuestring, "swish"));
    if (!cJSON_IsNumber(f)) return false;
    snprintf(number, sizeof number, "%g", f->valuedouble);
    return strcmp(number, value) == 0;
}

static void require(reader *r, const fixed *list, int n) {
    for (int i = 0; i < n; i++) {
        const json *f = field(r, list[i].name), *e = f;
        bool good = !f || is_fixed(f, list[i].value);
        if (!good && cJSON_IsArray(f) && f->child) { /* a list of one value per level */
            good = true;
            cJSON_ArrayForEach(e, f) good = good && is_fixed(e, list[i].value);
        }
        if (good) continue;
        char *text = cJSON_PrintUnformatted(f);
        r->st = fail(E_UNSUPPORTED, "%s: %s is %.80s; only %s is supported", r->what, list[i].name,
                     text ? text : "?", list[i].value ? list[i].value : "null or false");
        cJSON_free(text);
        return;
    }
}

static bool begin(reader *r, const json *j, const char *what) {
    *r = (reader){j, what, OK};
    if (!cJSON_IsObject(j)) r->st = fail(E_FORMAT, "%s: not a JSON object", what);
    return r->st == OK;
}

static void read_unet_levels(reader *r, unet_config *c) {
    static const int sd1[4] = {320, 640, 1280, 1280};
    int n = c->levels = read_levels(r, "block_out_channels", 4, UNET_MAX_LEVELS);
    read_ints(r, "block_out_channels", 0, n, 1, 1 << 16, c->block_out_channels);
    if (!field(r, "block_out_channels") && r->st == OK)
        memcpy(c->block_out_channels, sd1, sizeof sd1);
    c->layers_per_block = read_one_int(r, "layers_per_block", 2, n, 1, 8);
    read_ints(r, "attention_head_dim", 8, n, 1, 1 << 12,
              c->heads); /* the field's name lies: it is the number of heads */
    if (field(r, "num_attention_heads"))
        read_ints(r, "num_attention_heads", 8, n, 1, 1 << 12, c->heads);
    read_ints(r, "transformer_layers_per_block", 1, n, 1, 64, c->transformer_layers);
    for (int i = 0; i < n; i++) {
        c->attention[i] =
            read_block(r, "down_block_types", i, n, i < 3, "CrossAttnDownBlock2D", "DownBlock2D");
        bool up =
            read_block(r, "up_block_types", n - 1 - i, n, i < 3, "CrossAttnUpBlock2D", "UpBlock2D");
        if (r->st == OK && up != c->attention[i])
            r->st =
                fail(E_UNSUPPORTED, "%s: up_block_types does not mirror down_block_types", r->what);
        bool attends = c->attention[i] || i == n - 1; /* the middle has the last level's heads */
        if (r->st == OK && c->block_out_channels[i] % c->norm_num_groups)
            r->st = fail(E_FORMAT, "%s: %d channels do not divide into %d groups (norm_num_groups)",
                         r->what, c->block_out_channels[i], c->norm_num_groups);
        if (r->st == OK && attends && c->block_out_channels[i] % c->heads[i])
            r->st = fail(E_FORMAT, "%s: %d channels do not divide into %d attention heads", r->what,
                         c->block_out_channels[i], c->heads[i]);
    }
}

status config_read_unet(const json *j, const char *what, unet_config *c, int *sample_size) {
    static const fixed only[] = {{"addition_embed_type"},
                                 {"class_embed_type"},
                                 {"num_class_embeds"},
                                 {"class_embeddings_concat"},
                                 {"encoder_hid_dim"},
                                 {"encoder_hid_dim_type"},
                                 {"resnet_time_scale_shift", "default"},
                                 {"resnet_skip_time_act"},
                                 {"resnet_out_scale_factor", "1"},
                                 {"time_embedding_type", "positional"},
                                 {"time_embedding_dim"},
                                 {"time_embedding_act_fn"},
                                 {"timestep_post_act"},
                                 {"only_cross_attention"},
                                 {"dual_cross_attention"},
                                 {"mid_block_only_cross_attention"},
                                 {"cross_attention_norm"},
                                 {"attention_type", "default"},
                                 {"conv_in_kernel", "3"},
                                 {"conv_out_kernel", "3"},
                                 {"center_input_sample"},
                                 {"act_fn", "silu"},
                                 {"downsample_padding", "1"},
                                 {"mid_block_scale_factor", "1"},
                                 {"mid_block_type", "UNetMidBlock2DCrossAttn"},
                                 {"reverse_transformer_layers_per_block"},
                                 {"projection_class_embeddings_input_dim"}};
    reader r;
    *c = (unet_config){0};
    if (!begin(&r, j, what)) return r.st;
    require(&r, only, ARRAY_LEN(only));
    if (cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(j, "mid_block_type")))
        return fail(E_UNSUPPORTED,
                    "%s: mid_block_type is null: a UNet without its middle is not supported", what);
    c->in_channels = read_int(&r, "in_channels", 4, 1, 1024);
    c->out_channels = read_int(&r, "out_channels", 4, 1, 1024);
    c->norm_num_groups = read_int(&r, "norm_num_groups", 32, 1, 1 << 12);
    read_unet_levels(&r, c);
    c->cross_attention_dim = read_one_int(&r, "cross_attention_dim", 1280, c->levels, 1, 1 << 16);
    c->norm_eps = (float)read_number(&r, "norm_eps", 1e-5, 0, 1);
    c->use_linear_projection = read_bool(&r, "use_linear_projection", false);
    c->flip_sin_to_cos = read_bool(&r, "flip_sin_to_cos", true);
    c->freq_shift = (float)read_number(&r, "freq_shift", 0, -16, 16);
    c->time_cond_proj_dim = read_int(&r, "time_cond_proj_dim", 0, 1, 1 << 16);
    const json *size = field(&r, "sample_size");
    *sample_size = size && whole(size, 1, 1 << 16) ? (int)size->valuedouble : 0;
    return r.st;
}

static void read_vae_kl(reader *r, vae_config *c) {
    static const fixed only[] = {{"act_fn", "silu"}, {"latents_mean"}, {"latents_std"}};
    c->kind = VAE_KL;
    require(r, only, ARRAY_LEN(only));
    c->latent_channels = read_int(r, "latent_channels", 4, 1, 1024);
    int n = c->levels = read_levels(r, "block_out_channels", 1, VAE_MAX_LEVELS);
    read_ints(r, "block_out_channels", 64, n, 1, 1 << 16, c->block_out_channels);
    c->layers_per_block = read_int(r, "layers_per_block", 1, 1, 8);
    c->norm_num_groups = read_int(r, "norm_num_groups", 32, 1, 1 << 12);
    c->scaling_factor = (float)read_number(r, "scaling_factor", 0.18215, 1e-6, 1e6);
    c->shift_factor = (float)read_number(r, "shift_factor", 0, -1e6, 1e6);
    c->use_quant_conv = read_bool(r, "use_quant_conv", true);
    c->use_post_quant_conv = read_bool(r, "use_post_quant_conv", true);
    c->mid_block_add_attention = read_bool(r, "mid_block_add_attention", true);
    for (int i = 0; i < n; i++) {
        read_block(r, "down_block_types", i, n, true, "DownEncoderBlock2D", NULL);
        read_block(r, "up_block_types", i, n, true, "UpDecoderBlock2D", NULL);
        if (r->st == OK && c->block_out_channels[i] % c->norm_num_groups)
            r->st = fail(E_FORMAT, "%s: %d channels do not divide into %d groups (norm_num_groups)",
                         r->what, c->block_out_channels[i], c->norm_num_groups);
    }
}

static void read_vae_tiny(reader *r, vae_config *c) {
    static const fixed only[] = {{"act_fn", "relu"}, {"upsample_fn", "nearest"}};
    static const int encoder[4] = {1, 3, 3, 3}, decoder[4] = {3, 3, 3, 1};
    c->kind = VAE_TINY;
    require(r, only, ARRAY_LEN(only));
    c->latent_channels = read_int(r, "latent_channels", 4, 1, 1024);
    int n = c->levels = read_levels(r, "decoder_block_out_channels", 4, VAE_MAX_LEVELS);
    read_ints(r, "decoder_block_out_channels", 64, n, 1, 1 << 16, c->block_out_channels);
    read_ints(r, "encoder_block_out_channels", 64, n, 1, 1 << 16, c->encoder_block_out_channels);
    read_ints(r, "num_encoder_blocks", 3, n, 0, 64, c->num_encoder_blocks);
    read_ints(r, "num_decoder_blocks", 3, n, 0, 64, c->num_decoder_blocks);
    if (n == 4 && !field(r, "num_encoder_blocks"))
        memcpy(c->num_encoder_blocks, encoder, sizeof encoder);
    if (n == 4 && !field(r, "num_decoder_blocks"))
        memcpy(c->num_decoder_blocks, decoder, sizeof decoder);
    c->upsampling_scaling_factor = read_int(r, "upsampling_scaling_factor", 2, 1, 8);
    c->latent_magnitude = (float)read_number(r, "latent_magnitude", 3, 0, 1e6);
    c->latent_shift = (float)read_number(r, "latent_shift", 0.5, -1e6, 1e6);
    c->scaling_factor = (float)read_number(r, "scaling_factor", 1, 1e-6, 1e6);
    c->shift_factor = (float)read_number(r, "shift_factor", 0, -1e6, 1e6);
}

status config_read_vae(const json *j, const char *what, vae_config *c) {
    reader r;
    *c = (vae_config){0};
    if (!begin(&r, j, what)) return r.st;
    const json *f = field(&r, "_class_name");
    const char *name = f && cJSON_IsString(f) ? f->valuestring : "AutoencoderKL";
    c->in_channels = read_int(&r, "in_channels", 3, 1, 64);
    c->out_channels = read_int(&r, "out_channels", 3, 1, 64);
    if (strcmp(name, "AutoencoderKL") == 0)
        read_vae_kl(&r, c);
    else if (strcmp(name, "AutoencoderTiny") == 0)
        read_vae_tiny(&r, c);
    else
        return fail(E_UNSUPPORTED,
                    "%s: _class_name is %.60s; AutoencoderKL and AutoencoderTiny are supported",
                    what, name);
    if (r.st == OK && (c->in_channels != 3 || c->out_channels != 3))
        return fail(E_UNSUPPORTED, "%s: an autoencoder from %d to %d channels; pictures have 3",
                    what, c->in_channels, c->out_channels);
    return r.st;
}

status config_read_text(const json *j, const char *what, text_config *c) {
    reader r;
    *c = (text_config){0};
    if (!begin(&r, j, what)) return r.st;
    const json *kind = field(&r, "model_type");
    if (kind && !is_fixed(kind, "clip_text_model"))
        return fail(E_UNSUPPORTED, "%s: model_type is %.60s; only clip_text_model is supported",
                    what, cJSON_IsString(kind) ? kind->valuestring : "?");
    c->vocab_size = read_int(&r, "vocab_size", 49408, 2, 1 << 22);
    c->hidden_size = read_int(&r, "hidden_size", 512, 1, 1 << 16);
    c->intermediate_size = read_int(&r, "intermediate_size", 2048, 1, 1 << 18);
    c->num_hidden_layers = read_int(&r, "num_hidden_layers", 12, 1, 256);
    c->num_attention_heads = read_int(&r, "num_attention_heads", 8, 1, 1 << 12);
    c->max_position_embeddings = read_int(&r, "max_position_embeddings", 77, 3, 1 << 16);
    c->layer_norm_eps = (float)read_number(&r, "layer_norm_eps", 1e-5, 0, 1);
    const json *act = field(&r, "hidden_act");
    c->hidden_act = act && is_fixed(act, "gelu") ? ACT_GELU_ERF : ACT_QUICK_GELU;
    if (act && r.st == OK && !is_fixed(act, "gelu") && !is_fixed(act, "quick_gelu"))
        r.st = fail(E_UNSUPPORTED, "%s: hidden_act is %.60s; gelu and quick_gelu are supported",
                    what, cJSON_IsString(act) ? act->valuestring : "?");
    if (r.st == OK && c->hidden_size % c->num_attention_heads)
        r.st = fail(E_FORMAT, "%s: hidden_size %d does not divide into %d attention heads", what,
                    c->hidden_size, c->num_attention_heads);
    return r.st;
}

const char *config_class(const json *j, const char *otherwise) {
    const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(j, "_class_name"));
    size_t n = name ? strlen(name) : 0;
    return n && n < 64 &&
                   strspn(name,
                          "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == n
               ? name
               : otherwise;
}
