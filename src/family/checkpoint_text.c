/* checkpoint_text.c: configs as JSON text, as diffusers and transformers spell them.
 * SPDX-License-Identifier: MIT */
#include "family/checkpoint_parts.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Text that grows in an arena; NULL once memory was short. */
typedef struct text { arena *a; const char *s; } text;

static void add(text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(text *t, const char *fmt, ...) {
    char piece[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(piece, sizeof piece, fmt, args);
    va_end(args);
    if (t->s) t->s = arena_printf(t->a, "%s%s", t->s, piece);
}

static void begin(text *t, arena *a, const char *class_field, const char *class_name) {
    *t = (text){a, "{"};
    add(t, "\n  \"%s\": \"%s\"", class_field, class_name);
}
static const char *end(text *t) {
    add(t, "\n}\n");
    return t->s;
}
static void add_int(text *t, const char *name, int v) { add(t, ",\n  \"%s\": %d", name, v); }
static void add_bool(text *t, const char *name, bool v) { add(t, ",\n  \"%s\": %s", name, v ? "true" : "false"); }
static void add_string(text *t, const char *name, const char *v) { add(t, ",\n  \"%s\": \"%s\"", name, v); }

static void add_ints(text *t, const char *name, const int *v, int n) {
    add(t, ",\n  \"%s\": [", name);
    for (int i = 0; i < n; i++) add(t, "%s%d", i ? ", " : "", v[i]);
    add(t, "]");
}

static void add_words(text *t, const char *name, const bool *which, int n, bool reverse, const char *yes, const char *no) {
    add(t, ",\n  \"%s\": [", name);
    for (int i = 0; i < n; i++) add(t, "%s\"%s\"", i ? ", " : "", which[reverse ? n - 1 - i : i] ? yes : no);
    add(t, "]");
}

/* The fewest digits that read back as the same number, with a mark that it is no integer. */
static void add_number(text *t, const char *name, double v, bool is_float) {
    char s[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(s, sizeof s, "%.*g", digits, v);
        double back = strtod(s, NULL);
        if (is_float ? (float)back == (float)v : back == v) break;
    }
    add(t, ",\n  \"%s\": %s%s", name, s, strpbrk(s, ".en") ? "" : ".0");
}

/* upcast: attention scores of half types in f32, which diffusers needs for what predicts v. */
static const char *text_unet(arena *a, const unet_config *c, int sample_size, bool upcast) {
    text t;
    begin(&t, a, "_class_name", "UNet2DConditionModel");
    add_int(&t, "in_channels", c->in_channels);
    add_int(&t, "out_channels", c->out_channels);
    if (sample_size) add_int(&t, "sample_size", sample_size);
    add_ints(&t, "block_out_channels", c->block_out_channels, c->levels);
    add_int(&t, "layers_per_block", c->layers_per_block);
    add_words(&t, "down_block_types", c->attention, c->levels, false, "CrossAttnDownBlock2D", "DownBlock2D");
    add_string(&t, "mid_block_type", "UNetMidBlock2DCrossAttn");
    add_words(&t, "up_block_types", c->attention, c->levels, true, "CrossAttnUpBlock2D", "UpBlock2D");
    add_ints(&t, "attention_head_dim", c->heads, c->levels);
    int depth[UNET_MAX_LEVELS], deepest = 1;
    for (int i = 0; i < c->levels; i++) deepest = MAX(deepest, depth[i] = MAX(c->transformer_layers[i], 1));
    if (deepest > 1) add_ints(&t, "transformer_layers_per_block", depth, c->levels);
    add_int(&t, "cross_attention_dim", c->cross_attention_dim);
    add_int(&t, "norm_num_groups", c->norm_num_groups);
    add_number(&t, "norm_eps", (double)c->norm_eps, true);
    add_string(&t, "act_fn", "silu");
    add_bool(&t, "use_linear_projection", c->use_linear_projection);
    if (upcast) add_bool(&t, "upcast_attention", true);
    add_bool(&t, "flip_sin_to_cos", c->flip_sin_to_cos);
    if (c->freq_shift == (float)(int)c->freq_shift) add_int(&t, "freq_shift", (int)c->freq_shift);
    else add_number(&t, "freq_shift", (double)c->freq_shift, true);
    if (c->time_cond_proj_dim) add_int(&t, "time_cond_proj_dim", c->time_cond_proj_dim);
    return end(&t);
}

static const char *text_vae_tiny(arena *a, const vae_config *c) {
    text t;
    begin(&t, a, "_class_name", "AutoencoderTiny");
    add_int(&t, "in_channels", c->in_channels);
    add_int(&t, "out_channels", c->out_channels);
    add_int(&t, "latent_channels", c->latent_channels);
    add_ints(&t, "encoder_block_out_channels", c->encoder_block_out_channels, c->levels);
    add_ints(&t, "decoder_block_out_channels", c->block_out_channels, c->levels);
    add_ints(&t, "num_encoder_blocks", c->num_encoder_blocks, c->levels);
    add_ints(&t, "num_decoder_blocks", c->num_decoder_blocks, c->levels);
    add_string(&t, "act_fn", "relu");
    add_int(&t, "upsampling_scaling_factor", c->upsampling_scaling_factor);
    add_number(&t, "latent_magnitude", (double)c->latent_magnitude, true);
    add_number(&t, "latent_shift", (double)c->latent_shift, true);
    add_number(&t, "scaling_factor", (double)c->scaling_factor, true);
    add_number(&t, "shift_factor", (double)c->shift_factor, true);
    return end(&t);
}

static const char *text_vae(arena *a, const vae_config *c) {
    static const bool all[VAE_MAX_LEVELS] = {true, true, true, true, true, true};
    if (c->kind == VAE_TINY) return text_vae_tiny(a, c);
    text t;
    begin(&t, a, "_class_name", "AutoencoderKL");
    add_int(&t, "in_channels", c->in_channels);
    add_int(&t, "out_channels", c->out_channels);
    add_int(&t, "latent_channels", c->latent_channels);
    add_ints(&t, "block_out_channels", c->block_out_channels, c->levels);
    add_int(&t, "layers_per_block", c->layers_per_block);
    add_words(&t, "down_block_types", all, c->levels, false, "DownEncoderBlock2D", "");
    add_words(&t, "up_block_types", all, c->levels, false, "UpDecoderBlock2D", "");
    add_int(&t, "norm_num_groups", c->norm_num_groups);
    add_string(&t, "act_fn", "silu");
    add_number(&t, "scaling_factor", (double)c->scaling_factor, true);
    if (c->shift_factor != 0) add_number(&t, "shift_factor", (double)c->shift_factor, true);
    add_bool(&t, "use_quant_conv", c->use_quant_conv);
    add_bool(&t, "use_post_quant_conv", c->use_post_quant_conv);
    add_bool(&t, "mid_block_add_attention", c->mid_block_add_attention);
    return end(&t);
}

static const char *text_clip(arena *a, const text_config *c) {
    text t;
    begin(&t, a, "model_type", "clip_text_model");
    add(&t, ",\n  \"architectures\": [\"CLIPTextModel\"]");
    add_int(&t, "vocab_size", c->vocab_size);
    add_int(&t, "hidden_size", c->hidden_size);
    add_int(&t, "projection_dim", c->hidden_size);
    add_int(&t, "intermediate_size", c->intermediate_size);
    add_int(&t, "num_hidden_layers", c->num_hidden_layers);
    add_int(&t, "num_attention_heads", c->num_attention_heads);
    add_int(&t, "max_position_embeddings", c->max_position_embeddings);
    add_string(&t, "hidden_act", c->hidden_act == ACT_GELU_ERF ? "gelu" : "quick_gelu");
    add_number(&t, "layer_norm_eps", (double)c->layer_norm_eps, true);
    add_int(&t, "bos_token_id", c->vocab_size - 2);
    add_int(&t, "eos_token_id", c->vocab_size - 1);
    return end(&t);
}

static const char *text_schedule(arena *a, const schedule_config *c) {
    static const char *const betas[BETA_KIND_COUNT] = {"linear", "scaled_linear", "squaredcos_cap_v2"};
    static const char *const predictions[PREDICTION_COUNT] = {"epsilon", "v_prediction", "sample"};
    static const char *const spacings[SPACING_COUNT] = {"leading", "trailing", "linspace"};
    text t;
    begin(&t, a, "_class_name", "DDIMScheduler");
    add_int(&t, "num_train_timesteps", c->num_train_timesteps);
    add_number(&t, "beta_start", c->beta_start, false);
    add_number(&t, "beta_end", c->beta_end, false);
    add_string(&t, "beta_schedule", betas[c->beta_schedule]);
    add_string(&t, "prediction_type", predictions[c->prediction_type]);
    add_bool(&t, "rescale_betas_zero_snr", c->rescale_betas_zero_snr);
    add_bool(&t, "set_alpha_to_one", c->set_alpha_to_one);
    add_bool(&t, "clip_sample", false);
    if (c->timestep_spacing != SPACING_DEFAULT) add_string(&t, "timestep_spacing", spacings[c->timestep_spacing]);
    add_int(&t, "steps_offset", c->steps_offset);
    return end(&t);
}

const char *checkpoint_config(const checkpoint *c, part p, arena *a) {
    switch (p) {
    case PART_UNET: return text_unet(a, &c->unet, c->sample_size, c->schedule.prediction_type == PREDICTION_V);
    case PART_VAE: return text_vae(a, &c->vae);
    case PART_TEXT: return text_clip(a, &c->text);
    case PART_COUNT: break;
    }
    return text_schedule(a, &c->schedule);
}
