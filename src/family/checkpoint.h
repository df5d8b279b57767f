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
    const weight *w; int64_t begin, count; /* elements [begin, begin + count) of w: OpenCLIP joins q, k and v */
    bool transpose;                        /* w is [in, out] (OpenCLIP's text_projection) */
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
    bool pad_zero;                         /* SD 2: the pad token is "!" */
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
/* Fills every parameter of ps (already declared) from the part. Missing or surplus tensors, wrong shapes and NaN are
 * E_FORMAT naming the first such tensor. Linear and 1x1 convolution weights stand for one another. Called again for the
 * same ps it does nothing new. */
status checkpoint_load(const checkpoint *c, part p, params *ps);
