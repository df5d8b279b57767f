/* checkpoint_names.c: how tensors are called. A map is a list of modules, each with its name in the original layout and
 * in diffusers; it is written out for the config at hand, so that any number of levels and layers is served. What is
 * inside a module goes by a small table. Every rule is used in both directions.
 * source  CompVis latent-diffusion, OpenCLIP and diffusers: the names in their checkpoints
 * SPDX-License-Identifier: MIT */
#include "family/checkpoint_parts.h"
#include <stdarg.h>
#include <stdio.h>

static const name_row unet_resnet[] = {{"in_layers.0", "norm1"},        {"in_layers.2", "conv1"},
                                       {"emb_layers.1", "time_emb_proj"}, {"out_layers.0", "norm2"},
                                       {"out_layers.3", "conv2"},       {"skip_connection", "conv_shortcut"},
                                       {0}};
static const name_row vae_resnet[] = {{"norm1", "norm1"}, {"conv1", "conv1"}, {"norm2", "norm2"}, {"conv2", "conv2"},
                                      {"nin_shortcut", "conv_shortcut"}, {0}};
static const name_row vae_attention[] = {{"norm", "group_norm"}, {"q", "to_q"}, {"k", "to_k"}, {"v", "to_v"},
                                         {"proj_out", "to_out.0"}, {0}};
static const name_row openclip_layer[] = {{"ln_1", "layer_norm1"},
                                          {"ln_2", "layer_norm2"},
                                          {"mlp.c_fc", "mlp.fc1"},
                                          {"mlp.c_proj", "mlp.fc2"},
                                          {"attn.out_proj", "self_attn.out_proj"},
                                          {"attn.in_proj_weight", "self_attn.*_proj.weight"},
                                          {"attn.in_proj_bias", "self_attn.*_proj.bias"},
                                          {0}};

/* ---- writing a map ---- */
void names_fini(name_map *m) {
    mem_free(m->pair);
    *m = (name_map){0};
}

/* One row "original = diffusers", printf style. */
static status add(name_map *m, const name_row *inner, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static status add(name_map *m, const name_row *inner, const char *fmt, ...) {
    char text[160];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (m->n == m->cap) {
        int cap = MAX(64, 2 * m->cap);
        name_pair *more = mem_realloc(m->pair, sizeof *more * (size_t)m->n, sizeof *more * (size_t)cap);
        if (!more) return fail(E_HOST_MEMORY, "no memory for the names of tensors");
        m->pair = more, m->cap = cap;
    }
    name_pair *p = &m->pair[m->n++];
    const char *eq = strstr(text, " = ");
    snprintf(p->ldm, sizeof p->ldm, "%.*s", (int)(eq - text), text);
    snprintf(p->hf, sizeof p->hf, "%s", eq + 3);
    p->inner = inner;
    return OK;
}

/* input_blocks counts every stage of the way down (the first convolution, each layer, each downsampler); output_blocks
 * counts the layers of the way up, an upsampler sharing the last one's number. */
status names_unet(const unet_config *c, name_map *m) {
    status st = OK;
    int layers = c->layers_per_block, last = c->levels - 1;
    TRY(add(m, NULL, "time_embed.0 = time_embedding.linear_1"));
    TRY(add(m, NULL, "time_embed.2 = time_embedding.linear_2"));
    TRY(add(m, NULL, "time_embed.cond_proj = time_embedding.cond_proj"));
    TRY(add(m, NULL, "input_blocks.0.0 = conv_in"));
    for (int l = 0; l <= last; l++) {
        for (int i = 0, k = 1 + l * (layers + 1); i < layers; i++, k++) {
            TRY(add(m, unet_resnet, "input_blocks.%d.0 = down_blocks.%d.resnets.%d", k, l, i));
            if (c->attention[l]) TRY(add(m, NULL, "input_blocks.%d.1 = down_blocks.%d.attentions.%d", k, l, i));
        }
        if (l < last) TRY(add(m, NULL, "input_blocks.%d.0.op = down_blocks.%d.downsamplers.0.conv", (l + 1) * (layers + 1), l));
    }
    TRY(add(m, unet_resnet, "middle_block.0 = mid_block.resnets.0"));
    TRY(add(m, NULL, "middle_block.1 = mid_block.attentions.0"));
    TRY(add(m, unet_resnet, "middle_block.2 = mid_block.resnets.1"));
    for (int u = 0; u <= last; u++) {
        bool attention = c->attention[last - u];
        for (int i = 0, k = u * (layers + 1); i <= layers; i++, k++) {
            TRY(add(m, unet_resnet, "output_blocks.%d.0 = up_blocks.%d.resnets.%d", k, u, i));
            if (attention) TRY(add(m, NULL, "output_blocks.%d.1 = up_blocks.%d.attentions.%d", k, u, i));
        }
        if (u < last)
            TRY(add(m, NULL, "output_blocks.%d.%d.conv = up_blocks.%d.upsamplers.0.conv", u * (layers + 1) + layers, attention ? 2 : 1, u));
    }
    TRY(add(m, NULL, "out.0 = conv_norm_out"));
    TRY(add(m, NULL, "out.2 = conv_out"));
out:
    return st;
}

static status names_vae_mid(name_map *m, const char *side) {
    status st = OK;
    TRY(add(m, NULL, "%s.conv_in = %s.conv_in", side, side));
    TRY(add(m, vae_resnet, "%s.mid.block_1 = %s.mid_block.resnets.0", side, side));
    TRY(add(m, vae_attention, "%s.mid.attn_1 = %s.mid_block.attentions.0", side, side));
    TRY(add(m, vae_resnet, "%s.mid.block_2 = %s.mid_block.resnets.1", side, side));
    TRY(add(m, NULL, "%s.norm_out = %s.conv_norm_out", side, side));
    TRY(add(m, NULL, "%s.conv_out = %s.conv_out", side, side));
out:
    return st;
}

/* The original numbers the decoder's levels by resolution, diffusers in the order in which they run. */
status names_vae(const vae_config *c, name_map *m) {
    status st = OK;
    int layers = c->layers_per_block, last = c->levels - 1;
    TRY(names_vae_mid(m, "encoder"));
    TRY(names_vae_mid(m, "decoder"));
    TRY(add(m, NULL, "quant_conv = quant_conv"));
    TRY(add(m, NULL, "post_quant_conv = post_quant_conv"));
    for (int l = 0; l <= last; l++) {
        for (int i = 0; i < layers; i++) TRY(add(m, vae_resnet, "encoder.down.%d.block.%d = encoder.down_blocks.%d.resnets.%d", l, i, l, i));
        for (int i = 0; i <= layers; i++) TRY(add(m, vae_resnet, "decoder.up.%d.block.%d = decoder.up_blocks.%d.resnets.%d", l, i, last - l, i));
        if (l < last) TRY(add(m, NULL, "encoder.down.%d.downsample.conv = encoder.down_blocks.%d.downsamplers.0.conv", l, l));
        if (l > 0) TRY(add(m, NULL, "decoder.up.%d.upsample.conv = decoder.up_blocks.%d.upsamplers.0.conv", l, last - l));
    }
out:
    return st;
}

status names_openclip(const text_config *c, name_map *m) {
    status st = OK;
    TRY(add(m, NULL, "token_embedding = text_model.embeddings.token_embedding"));
    TRY(add(m, NULL, "positional_embedding = text_model.embeddings.position_embedding.weight"));
    for (int i = 0; i < c->num_hidden_layers; i++)
        TRY(add(m, openclip_layer, "transformer.resblocks.%d = text_model.encoder.layers.%d", i, i));
    TRY(add(m, NULL, "ln_final = text_model.final_layer_norm"));
out:
    return st;
}

/* ---- reading a map ---- */
/* What follows `head` in name, "" or ".rest"; NULL when name is something else. */
static const char *after(const char *name, const char *head) {
    size_t n = strlen(head);
    return strncmp(name, head, n) == 0 && (name[n] == '.' || !name[n]) ? name + n : NULL;
}

/* The same for a head with "*", which is one of q, k, v. */
static const char *after_star(const char *name, const char *head) {
    const char *star = strchr(head, '*');
    if (!star) return after(name, head);
    size_t n = (size_t)(star - head);
    return strncmp(name, head, n) == 0 && name[n] && strchr("qkv", name[n]) ? after(name + n + 1, star + 1) : NULL;
}

static bool put(char out[128], const char *a, const char *b, const char *c) {
    int n = snprintf(out, 128, "%s%s%s%s", a, *b ? "." : "", b, c);
    return n > 0 && n < 128;
}

bool names_to_hf(const name_map *m, const char *ldm, char out[128]) {
    for (const name_pair *p = m->pair; p < m->pair + m->n; p++) {
        const char *rest = after(ldm, p->ldm);
        if (!rest) continue;
        if (!p->inner) return put(out, p->hf, "", rest);
        for (const name_row *r = p->inner; r->ldm && *rest; r++) {
            const char *tail = after(rest + 1, r->ldm);
            if (tail) return put(out, p->hf, r->hf, tail);
        }
    }
    return false;
}

bool names_to_ldm(const name_map *m, const char *hf, char out[128]) {
    for (const name_pair *p = m->pair; p < m->pair + m->n; p++) {
        const char *rest = after(hf, p->hf);
        if (!rest) continue;
        if (!p->inner) return put(out, p->ldm, "", rest);
        for (const name_row *r = p->inner; r->ldm && *rest; r++) {
            const char *tail = after_star(rest + 1, r->hf);
            if (tail) return put(out, p->ldm, r->ldm, tail);
        }
    }
    return false;
}

bool names_modern(part p, const char *old, char out[128]) {
    static const name_row attention[] = {{"query", "to_q"}, {"key", "to_k"}, {"value", "to_v"}, {"proj_attn", "to_out.0"}, {0}};
    static const char *const text_parts[] = {"embeddings", "encoder", "final_layer_norm"};
    static const char mid[] = ".mid_block.attentions.0.";
    const char *at = strstr(old, mid);
    for (const name_row *r = attention; p == PART_VAE && at && r->ldm; r++) {
        const char *tail = after(at + strlen(mid), r->ldm);
        if (!tail) continue;
        int n = snprintf(out, 128, "%.*s%s%s%s", (int)(at - old), old, mid, r->hf, tail);
        return n > 0 && n < 128;
    }
    for (size_t i = 0; p == PART_TEXT && i < ARRAY_LEN(text_parts); i++)
        if (after(old, text_parts[i])) return put(out, "text_model", old, "");
    return put(out, old, "", "");
}

/* ---- what is not ours ---- */
/* "x*" begins with x, "*x" ends with x. */
static bool like(const char *name, const char *pattern) {
    size_t n = strlen(name), k = strlen(pattern) - 1;
    if (pattern[0] == '*') return n >= k && strcmp(name + n - k, pattern + 1) == 0;
    if (pattern[k] == '*') return strncmp(name, pattern, k) == 0;
    return strcmp(name, pattern) == 0;
}

bool names_ignored(const char *name) {
    static const char *const patterns[] = {
        "model_ema.*", "first_stage_model.model_ema.*",                   /* averages kept beside the weights */
        "first_stage_model.loss.*", "loss.*", "embedding_manager.*",      /* of the training run */
        "alphas_cumprod*", "betas", "sqrt_*", "log_one_minus_alphas_cumprod", "posterior_*", "lvlb_weights", "logvar", "scale_factor",
        "global_step", "v_pred", "ztsnr",                                 /* schedule, counters, markers */
        "*embeddings.position_ids", "*logit_scale", "*text_projection", "*text_projection.weight", /* CLIP beyond the hidden states */
        "cond_stage_model.model.visual.*", "cond_stage_model.model.attn_mask", "vision_model.*", "visual_projection.weight"};
    for (size_t i = 0; i < ARRAY_LEN(patterns); i++)
        if (like(name, patterns[i])) return true;
    return false;
}

const char *names_foreign(const weights *w) {
    static const struct { const char *pattern, *what; bool piece; } rows[] = { /* piece: a whole model may hold such names too */
        {"conditioner.embedders.*", "Stable Diffusion XL"},
        {"*model.diffusion_model.label_emb.0.0.weight", "Stable Diffusion XL or an unCLIP model"},
        {"model.diffusion_model.joint_blocks.*", "Stable Diffusion 3"},
        {"joint_blocks.*", "Stable Diffusion 3"},
        {"model.diffusion_model.double_blocks.*", "Flux"},
        {"double_blocks.*", "Flux"},
        {"depth_model.*", "a depth-guided Stable Diffusion 2"},
        {"low_scale_model.*", "the Stable Diffusion upscaler"},
        {"control_model.*", "a ControlNet"},
        {"lora_unet_*", "a LoRA, not a whole model: give it to --adapter", true},
        {"lora_te_*", "a LoRA, not a whole model: give it to --adapter", true},
        {"*.lora_A.weight", "a LoRA, not a whole model: give it to --adapter", true},
        {"*.lora_down.weight", "a LoRA, not a whole model: give it to --adapter", true},
        {"*.lora.down.weight", "a LoRA, not a whole model: give it to --adapter", true},
        {"encoder.conv_in.weight", "an autoencoder alone: give it to --vae", true},
        {"down_blocks.0.resnets.0.conv1.weight", "diffusers' UNet alone: give the folder that holds model_index.json", true},
        {"input_blocks.0.0.weight", "a UNet alone: a whole model also has a text encoder and an autoencoder", true},
        {"text_model.encoder.layers.0.layer_norm1.weight", "a text encoder alone: give the whole model", true}};
    bool whole = weights_find(w, "model.diffusion_model.input_blocks.0.0.weight") != NULL;
    for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
        if (whole && rows[k].piece) continue;
        for (int64_t i = 0; i < weights_count(w); i++)
            if (like(weights_at(w, i)->name, rows[k].pattern)) return rows[k].what;
    }
    return NULL;
}
