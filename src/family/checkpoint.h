/* checkpoint.h: a Stable Diffusion checkpoint on disk, whatever its packing, seen as diffusers' parts with diffusers'
 * configs and tensor names: a diffusers folder, a single file in the original layout, or GGUF.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "family/text_encoder.h"
#include "family/unet.h"
#include "family/vae.h"
#include "file/weights.h"
#include "sampler/sampler.h"
#include "text/text.h"

typedef enum part { PART_UNET, PART_VAE, PART_TEXT, PART_COUNT } part;
const char *part_name(part p);             /* "unet", "vae", "text_encoder": diffusers' folder names */

typedef enum layout { LAYOUT_DIFFUSERS, LAYOUT_SINGLE, LAYOUT_GGUF, LAYOUT_COUNT } layout;

/* One parameter of a part, and where its values lie in the files. */
typedef struct part_tensor {
    char name[128];                        /* diffusers' name, "down_blocks.0.resnets.0.conv1.weight" */
    int n_dims; int64_t dim[WEIGHT_MAX_DIMS]; /* as diffusers has it, whatever the file says of 1x1 convolutions */
    const weight *w; int64_t begin, count; /* elements [begin, begin + count) of w: OpenCLIP joins q, k and v */
} part_tensor;

typedef struct checkpoint {
    char path[1024]; layout layout;
    const char *family, *family_label;     /* "sd1", "Stable Diffusion 1.x" */
    unet_config unet; vae_config vae; text_config text; schedule_config schedule;
    int sample_size;                       /* latent cells along a side of what it was trained at (unet config); 0 = not said */
    bool inpainting;                       /* conv_in takes latent, mask and masked latent: 9 channels */
    bool has_schedule, prediction_known;   /* prediction_known: the files say it; else the engine asks the network */
    const char *prediction_source;         /* "scheduler_config.json", "modelspec metadata", "v2-inference-v.yaml", "--prediction" */
    char tokenizer_dir[1024];              /* "" = the bundled vocabulary */
    bool pad_zero;                         /* SD 2 with the bundled vocabulary: the pad token is "!" */
    weights *files[PART_COUNT];            /* may be one and the same */
    part_tensor *tensor[PART_COUNT]; int64_t n_tensors[PART_COUNT];   /* sorted by name */
    arena mem;
} checkpoint;

typedef struct checkpoint_options {
    const char *prediction;                /* "epsilon" | "v_prediction" | NULL = find out */
    const char *vae;                       /* file or folder that replaces the autoencoder; NULL */
} checkpoint_options;

/* Opens and understands PATH; no values are read. errors: E_IO, E_FORMAT (names the tensor or field), E_UNSUPPORTED (a
 * family we do not run: SDXL, SD 3, Flux; 5-, 7- and 8-channel UNets: depth, upscaler, pix2pix; pickles), by name. */
status checkpoint_open(const char *path, const checkpoint_options *o, checkpoint **out);
void   checkpoint_close(checkpoint *c);
/* One human line: what was recognised, and why. */
const char *checkpoint_describe(const checkpoint *c, char *out, size_t bytes);
/* A part's config as diffusers' and transformers' JSON, the schedule for PART_COUNT; text in a, NULL when memory is short. */
const char *checkpoint_config(const checkpoint *c, part p, arena *a);
const char *layout_name(layout l);         /* "diffusers folder", "single file", "GGUF" */
/* Declares the parameters of a part, as its config says. */
status checkpoint_declare(const checkpoint *c, part p, params *ps);
/* E_FORMAT names the first parameter of ps (declared) that the part lacks or has in another shape, and the first tensor of
 * the part that ps does not have. Reads no values. */
status checkpoint_check(const checkpoint *c, part p, const params *ps);
part_tensor *checkpoint_find(const checkpoint *c, part p, const char *name); /* NULL = not there */
/* The whole parameter in checkpoint order and the type asked for (f32, f16, bf16).
 *   errors  E_FORMAT for NaN, infinity and what f16 cannot hold */
status part_tensor_fetch(const part_tensor *t, dtype type, void *dst);
/* Fills every parameter of ps (already allocated) from the part. Missing or surplus tensors and wrong shapes are E_FORMAT
 * naming the first such tensor. Linear and 1x1 convolution weights stand for one another. Frozen parameters read their
 * values when something needs them, which is when NaN is found: c must outlive ps. Called again for the same ps, those that
 * have values keep them; trainable ones get the checkpoint's values again. */
status checkpoint_load(const checkpoint *c, part p, params *ps);

/* Writes a checkpoint: a diffusers folder (model_index.json, configs, scheduler, tokenizer, weights) or one file in the
 * original layout with modelspec metadata and the configs. Nothing is left at path when it fails; what was there before
 * is replaced at the end, a folder only if it holds model_index.json.
 *   l       LAYOUT_DIFFUSERS or LAYOUT_SINGLE      type    f32, f16 or bf16
 *   errors  E_USAGE: the prediction of a Stable Diffusion 2 is not known and a scheduler config must say it; E_UNSUPPORTED;
 *           E_IO; and those of reading */
status checkpoint_write(const checkpoint *c, layout l, dtype type, const char *path);
/* The same with every parameter passed through fold as f32 first (adapters are merged so).   errors  E_FORMAT: what type cannot hold */
typedef status (*checkpoint_fold)(void *ctx, const part_tensor *t, float *w);
status checkpoint_write_folded(const checkpoint *c, layout l, dtype type, const char *path, checkpoint_fold fold, void *ctx);
