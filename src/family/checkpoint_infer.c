/* checkpoint_infer.c: configs of files in the original layout, which carry none: counted and measured from the tensors.
 * What shapes cannot tell follows the one practice there is: Stable Diffusion 1 has 8 attention heads at every level,
 * Stable Diffusion 2 (known by its linear projections) and CLIP have heads 64 wide, norms have 32 groups.
 * SPDX-License-Identifier: MIT */
#include "family/checkpoint_parts.h"
#include <stdarg.h>
#include <stdio.h>

enum { HEAD_WIDTH = 64, SD1_HEADS = 8, NORM_GROUPS = 32, MAX_STAGES = 64, MAX_SIZE = 1 << 22, OPENCLIP_H_LAYERS = 24 };

static const weight *find(const weights *w, const char *prefix, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static const weight *find(const weights *w, const char *prefix, const char *fmt, ...) {
    char name[256], tail[128];
    va_list args;
    va_start(args, fmt);
    vsnprintf(tail, sizeof tail, fmt, args);
    va_end(args);
    snprintf(name, sizeof name, "%s%s", prefix, tail);
    return weights_find(w, name);
}

/* A size that fits the config; 0 when there is none, which the callers refuse. */
static int dim(const weight *t, int i) { return t && i < t->n_dims && t->dim[i] > 0 && t->dim[i] <= MAX_SIZE ? (int)t->dim[i] : 0; }

static status no_sense(const char *prefix, const char *what) {
    return fail(E_FORMAT, "%s: %s: not a layout of Stable Diffusion that we know", prefix, what);
}

/* One layer of the way down: stage k, level l, layer i. */
static status infer_layer(const weights *w, const char *prefix, int k, int l, int i, unet_config *c) {
    int ch = dim(find(w, prefix, "input_blocks.%d.0.in_layers.2.weight", k), 0), depth = 0;
    bool attention = find(w, prefix, "input_blocks.%d.1.norm.weight", k) != NULL;
    while (attention && depth < UNET_MAX_ATTENTIONS && find(w, prefix, "input_blocks.%d.1.transformer_blocks.%d.norm1.weight", k, depth)) depth++;
    if (i == 0) {
        c->block_out_channels[l] = ch;
        c->attention[l] = attention;
        c->transformer_layers[l] = MAX(depth, 1);
    }
    if (!ch || ch != c->block_out_channels[l] || attention != c->attention[l] || MAX(depth, 1) != c->transformer_layers[l])
        return no_sense(prefix, "input_blocks: the layers of one level differ");
    return OK;
}

static status infer_levels(const weights *w, const char *prefix, unet_config *c) {
    status st = OK;
    int layers = 0;
    c->levels = 1;
    for (int k = 1; k < MAX_STAGES; k++) {
        if (find(w, prefix, "input_blocks.%d.0.in_layers.2.weight", k)) {
            TRY(infer_layer(w, prefix, k, c->levels - 1, layers++, c));
            continue;
        }
        if (c->levels > 1 && layers != c->layers_per_block) return no_sense(prefix, "input_blocks: the levels have different numbers of layers");
        c->layers_per_block = layers;
        layers = 0;
        if (!find(w, prefix, "input_blocks.%d.0.op.weight", k)) break;
        if (c->levels == UNET_MAX_LEVELS) return no_sense(prefix, "input_blocks: too many levels");
        c->levels++;
    }
    if (c->layers_per_block < 1) return no_sense(prefix, "input_blocks: no layers");
out:
    return st;
}

status config_infer_unet(const weights *w, const char *prefix, unet_config *c) {
    status st = OK;
    *c = (unet_config){.norm_num_groups = NORM_GROUPS, .norm_eps = 1e-5f, .flip_sin_to_cos = true};
    TRY(infer_levels(w, prefix, c));
    int last = c->levels - 1;
    const weight *proj = find(w, prefix, "middle_block.1.proj_in.weight");
    const weight *text = find(w, prefix, "middle_block.1.transformer_blocks.0.attn2.to_k.weight");
    if (!proj || !text) return no_sense(prefix, "middle_block.1 has no cross-attention");
    c->in_channels = dim(find(w, prefix, "input_blocks.0.0.weight"), 1);
    c->out_channels = dim(find(w, prefix, "out.2.weight"), 0);
    c->cross_attention_dim = dim(text, 1);
    c->use_linear_projection = proj->n_dims == 2;
    c->time_cond_proj_dim = dim(find(w, prefix, "time_embed.cond_proj.weight"), 1);
    for (c->transformer_layers[last] = 0; c->transformer_layers[last] < UNET_MAX_ATTENTIONS; c->transformer_layers[last]++)
        if (!find(w, prefix, "middle_block.1.transformer_blocks.%d.norm1.weight", c->transformer_layers[last])) break;
    if (!c->in_channels || !c->out_channels || !c->cross_attention_dim) return no_sense(prefix, "the first or last convolution or the text's width is missing");
    for (int l = 0; l <= last; l++) {
        int ch = c->block_out_channels[l], step = c->use_linear_projection ? HEAD_WIDTH : SD1_HEADS;
        if (ch % step || ch % NORM_GROUPS)
            return fail(E_FORMAT, "%s: %d channels fit neither %d groups nor %s: the file needs its config as the metadata imago.unet, or open the diffusers folder", prefix, ch,
                        NORM_GROUPS, c->use_linear_projection ? "heads 64 wide" : "8 heads");
        c->heads[l] = c->use_linear_projection ? ch / HEAD_WIDTH : SD1_HEADS;
    }
out:
    return st;
}

status config_infer_vae(const weights *w, const char *prefix, vae_config *c) {
    bool ldm = find(w, prefix, "encoder.down.0.block.0.conv2.weight") != NULL;
    *c = (vae_config){.kind = VAE_KL, .scaling_factor = 0.18215f, .norm_num_groups = NORM_GROUPS};
    for (int l = 0; l < VAE_MAX_LEVELS; l++) {
        char name[128];
        int layers = 0;
        const weight *conv = NULL;
        for (; layers < MAX_STAGES; layers++) {
            if (ldm) snprintf(name, sizeof name, "encoder.down.%d.block.%d.conv2.weight", l, layers);
            else snprintf(name, sizeof name, "encoder.down_blocks.%d.resnets.%d.conv2.weight", l, layers);
            const weight *next = find(w, prefix, "%s", name);
            if (!next) break;
            conv = next;
        }
        if (!conv) break;
        if (l && layers != c->layers_per_block) return no_sense(prefix, "encoder: the levels have different numbers of layers");
        c->layers_per_block = layers;
        c->block_out_channels[c->levels++] = dim(conv, 0);
    }
    c->mid_block_add_attention = find(w, prefix, ldm ? "encoder.mid.attn_1.norm.weight" : "encoder.mid_block.attentions.0.group_norm.weight") != NULL;
    c->use_quant_conv = find(w, prefix, "quant_conv.weight") != NULL;
    c->use_post_quant_conv = find(w, prefix, "post_quant_conv.weight") != NULL;
    c->in_channels = dim(find(w, prefix, "encoder.conv_in.weight"), 1);
    c->out_channels = dim(find(w, prefix, "decoder.conv_out.weight"), 0);
    c->latent_channels = dim(find(w, prefix, "decoder.conv_in.weight"), 1);
    if (!c->levels || c->in_channels != 3 || c->out_channels != 3 || !c->latent_channels) return no_sense(prefix, "no autoencoder of pictures with 3 channels");
    for (int l = 0; l < c->levels; l++)
        if (!c->block_out_channels[l] || c->block_out_channels[l] % NORM_GROUPS)
            return fail(E_FORMAT, "%s: %d channels do not divide into %d groups: the file needs its config as the metadata imago.vae, or open the diffusers folder", prefix,
                        c->block_out_channels[l], NORM_GROUPS);
    return OK;
}

status config_infer_text(const weights *w, const char *prefix, bool openclip, text_config *c) {
    const char *token = openclip ? "token_embedding.weight" : "embeddings.token_embedding.weight";
    const char *position = openclip ? "positional_embedding" : "embeddings.position_embedding.weight";
    const weight *fc1 = find(w, prefix, openclip ? "transformer.resblocks.0.mlp.c_fc.weight" : "encoder.layers.0.mlp.fc1.weight");
    *c = (text_config){.layer_norm_eps = 1e-5f, .hidden_act = openclip ? ACT_GELU_ERF : ACT_QUICK_GELU};
    c->vocab_size = dim(find(w, prefix, "%s", token), 0);
    c->hidden_size = dim(find(w, prefix, "%s", token), 1);
    c->max_position_embeddings = dim(find(w, prefix, "%s", position), 0);
    c->intermediate_size = dim(fc1, 0);
    while (c->num_hidden_layers < 256 && (openclip ? find(w, prefix, "transformer.resblocks.%d.ln_1.weight", c->num_hidden_layers)
                                                   : find(w, prefix, "encoder.layers.%d.layer_norm1.weight", c->num_hidden_layers)))
        c->num_hidden_layers++;
    /* Stable Diffusion 2 looks at the last but one of OpenCLIP-H's layers: diffusers leaves the last away, and so do we. */
    if (c->num_hidden_layers == OPENCLIP_H_LAYERS) {
        c->num_hidden_layers--;
        c->hidden_act = ACT_GELU_ERF;
    }
    if (!c->vocab_size || !c->hidden_size || !c->max_position_embeddings || !c->intermediate_size || !c->num_hidden_layers)
        return no_sense(prefix, "the text encoder is not CLIP's");
    if (c->hidden_size % HEAD_WIDTH)
        return fail(E_FORMAT, "%s: width %d is not a multiple of a head's %d: the file needs its config as the metadata imago.text_encoder, or open the diffusers folder", prefix,
                    c->hidden_size, HEAD_WIDTH);
    c->num_attention_heads = c->hidden_size / HEAD_WIDTH;
    return OK;
}
