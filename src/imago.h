/* imago.h: the public interface of imago: image diffusion models, on any GPU that speaks Vulkan and on the CPU.
 *
 *     #include "imago.h"
 *     imago *im = NULL;
 *     imago_picture *pic = NULL;
 *     if (imago_open(&IMAGO_OPEN(.model = "sd15.safetensors"), &im) != IMAGO_OK ||
 *         imago_generate(im, &IMAGO_GENERATE(.prompt = "a red fox, watercolour", .seed = 1), &pic) != IMAGO_OK ||
 *         imago_save_picture(&pic[0], "fox.png") != IMAGO_OK)
 *         fprintf(stderr, "%s\n", imago_error_message());
 *     imago_free_pictures(pic, 1);
 *     imago_close(im);
 *
 * One imago belongs to one thread at a time; messages are per thread. Nothing here exits, aborts or prints.
 * SPDX-License-Identifier: MIT */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

typedef enum imago_status {
    IMAGO_OK, IMAGO_E_USAGE, IMAGO_E_IO, IMAGO_E_FORMAT, IMAGO_E_SHAPE, IMAGO_E_UNSUPPORTED,
    IMAGO_E_HOST_MEMORY, IMAGO_E_GPU_MEMORY, IMAGO_E_DEVICE_LOST, IMAGO_E_CANCELLED, IMAGO_STATUS_COUNT
} imago_status;
const char *imago_error_message(void);             /* of the last call that failed in this thread: one line for people */

typedef struct imago imago;

/* What is going on, for progress bars. step counts from 0; the last call of a stage has step = steps. */
typedef enum imago_stage { IMAGO_LOADING, IMAGO_READING_TEXT, IMAGO_ENCODING, IMAGO_SAMPLING, IMAGO_DECODING, IMAGO_STAGE_COUNT } imago_stage;
typedef struct imago_progress { imago_stage stage; int step, steps; double stage_seconds; } imago_progress;
typedef void (*imago_progress_fn)(void *ctx, const imago_progress *p);

/* ---- open ---- */
typedef struct imago_open_params {
    const char *model;                             /* diffusers folder, .safetensors or .gguf */
    const char *device;                            /* "auto" (default), "cpu", "vulkan", "vulkan:N" */
    const char *precision;                         /* "auto" (default), "f32", "f16", "bf16" */
    const char *prediction;                        /* "epsilon" or "v_prediction"; NULL = as the files say */
    const char *vae;                               /* another autoencoder; NULL */
    const char *const *adapters; int n_adapters;   /* LoRA, OFT, BOFT, ... files or PEFT folders: "path" or "path:0.8"; applied in order */
    const char *const *embeddings; int n_embeddings; /* textual inversion files: "path" or "name=path" */
    const char *cache_dir;                         /* compiled pipelines and tuning; NULL = none kept */
    int threads;                                   /* cpu; 0 = all cores */
    imago_progress_fn progress; bool (*cancelled)(void *ctx); void *ctx; /* cancelled is asked often, also within a step */
} imago_open_params;
#define IMAGO_OPEN(...) (imago_open_params){__VA_ARGS__}
imago_status imago_open(const imago_open_params *p, imago **out);
void         imago_close(imago *im);               /* accepts NULL */
const char  *imago_describe_model(const imago *im); /* "Stable Diffusion 1.x, single file, eps prediction (scheduler_config.json), cpu, bf16" */

/* ---- pictures ---- */
typedef struct imago_picture {
    int width, height; uint8_t *rgb;               /* [height, width, 3], sRGB */
    uint64_t seed; char *parameters, *json;        /* texts that reproduce it: A1111's "parameters" and ours; NULL */
} imago_picture;
imago_status imago_load_picture(const char *path, imago_picture *out);       /* PNG, JPEG, WebP; transparency on white */
imago_status imago_save_picture(const imago_picture *p, const char *path);   /* PNG with its texts; atomic */
void         imago_free_pictures(imago_picture *p, int n);                   /* an array from imago_generate */
void         imago_clear_picture(imago_picture *p);                          /* one from imago_load_picture */

/* ---- generate ---- */
typedef struct imago_generate_params {
    const char *prompt, *negative;                 /* A1111's (word:1.2) unless plain_prompt */
    int width, height;                             /* px, multiples of 8; 0 = what the model was trained at */
    int steps;                                     /* 0 = 20 */
    float guidance;                                /* guidance scale; 0 = 7; 1 = none */
    float guidance_rescale;                        /* 0..1, Lin et al. 2023 section 3.4 */
    const char *sampler, *schedule;                /* "euler_a", "DPM++ 2M Karras", ...; schedule: model, karras, exponential, leading, trailing, linspace */
    float eta;                                     /* share of fresh noise; <0 = the sampler's own (IMAGO_GENERATE's default) */
    uint64_t seed; int batch;                      /* picture i of the batch has seed + i; batch 0 = 1 */
    const char *rng, *rng_dtype;                   /* "cpu" (default) or "philox"; "f32" (default), "f16", "bf16" */
    int clip_skip;                                 /* A1111's: 1 = last layer; 0 = the model's own */
    bool plain_prompt;                             /* no emphasis syntax, cut at one chunk: diffusers' reading */
    const imago_picture *init, *mask;              /* img2img; inpainting (white = paint) */
    float strength;                                /* of img2img: 0..1; 0 = 0.75, inpainting 1 */
    bool tile;                                     /* decode in tiles even where memory would do */
    bool (*preview)(void *ctx, int step, const imago_picture *x0); int preview_every; void *preview_ctx; /* x0 estimates, first of the batch */
} imago_generate_params;
#define IMAGO_GENERATE(...) (imago_generate_params){.eta = -1.0f, __VA_ARGS__}
/* *out: `batch` pictures, imago_free_pictures. */
imago_status imago_generate(imago *im, const imago_generate_params *p, imago_picture **out);

/* ---- morph: one picture into another, and on ---- */
typedef struct imago_morph_params {
    const imago_picture *picture; int n_pictures;  /* 2 or more; each becomes the next */
    const char *const *prompt;                     /* what each shows: n_pictures texts; NULL, or NULLs in it = no text */
    int frames;                                    /* from one picture to the next, both counted; 0 = 7 */
    bool loop;                                     /* the last picture becomes the first again */
    int width, height;                             /* px, multiples of 8; 0 = what the model was trained at */
    bool pad; uint8_t fill[3];                     /* pictures of another shape: pad with this colour, else cut to the middle */
    const char *method;                            /* "imago" (default), "freemorph" (as released), "slerp" (its baseline) */
    int steps;                                     /* imago: of a way; 0 = 8. Others: of the whole schedule; 0 = 50 */
    float strength;                                /* how much of the schedule runs, 0..1; 0 = 0.7 (imago), 0.8 */
    int inner;                                     /* fixed-point iterations per step of inversion, imago: at most; 0 = 5 */
    float guidance;                                /* on the way down, imago: in the middle; 0 = 2, 7.5; 1 = none */
    const char *judge;                             /* SqueezeNet's weights, which say where frames lie for imago; NULL: pixels do */
    bool uneven, no_detail, own_keys;              /* imago without: equal distances; the pictures' detail; the ends' keys */
    uint64_t seed;                                 /* IMAGO_MORPH: 42 */
    bool tile;                                     /* decode in tiles even where memory would do */
    bool (*frame)(void *ctx, int index, int total, const imago_picture *p); void *frame_ctx; /* every frame as soon as it is there, in order; false stops */
} imago_morph_params;
#define IMAGO_MORPH(...) (imago_morph_params){.seed = 42, __VA_ARGS__}
/* How many frames that makes in all; 0 where the parameters are wrong. */
int imago_morph_count(const imago_morph_params *p);
/* *out: imago_morph_count frames (imago_free_pictures); out NULL: only p->frame gets them. The given pictures are frames themselves,
 * fitted to the size. Progress of IMAGO_SAMPLING counts network evaluations of one frame, over all pictures. */
imago_status imago_morph(imago *im, const imago_morph_params *p, imago_picture **out);

/* ---- grid: pictures that belong together, some given, the others made of them ---- */
#define IMAGO_GRID_CELLS 6
typedef struct imago_grid_params {
    const char *adapter; float strength;           /* a file of imago train-grid, and how much of it; 1 */
    int rows, cols;                                /* 1x2 to 2x3 */
    const char *layout;                            /* what the cells are to each other: edit, effect, recon3, recon1, compose; NULL = by what is given */
    const imago_picture *cell[IMAGO_GRID_CELLS];   /* row by row; NULL = to be made */
    const char *source[IMAGO_GRID_CELLS];          /* where these come from, for the made pictures' texts; NULL */
    const char *prompt[IMAGO_GRID_CELLS], *negative; /* of cells that are made; NULL = no words */
    int width, height;                             /* of a cell, px; 0 = what the model was trained at */
    bool pad;                                      /* given pictures of another shape: pad with white, else cut to the middle */
    int steps; const char *sampler;                /* 0 = 20; NULL = ddim */
    float guidance;                                /* of the words */
    float ref_strength;                            /* of the given cells: 0 = they are ignored, 1 = as learned, above: pushed */
    uint64_t seed;                                 /* cell i starts from the noise of seed + i */
    bool canvas;                                   /* the same function, computed as one tiled picture */
} imago_grid_params;
#define IMAGO_GRID(...) (imago_grid_params){.strength = 1, .rows = 2, .cols = 2, .guidance = 4, .ref_strength = 1.5f, __VA_ARGS__}
/* *out: rows * cols pictures (imago_free_pictures), given ones fitted to the size. The adapter touches nothing else that im makes. */
imago_status imago_grid(imago *im, const imago_grid_params *p, imago_picture **out);

/* Where the time of the last imago_generate or imago_morph went, and the memory. */
typedef struct imago_report {
    double load_s, text_s, encode_s, sample_s, decode_s, seconds_per_step; int steps, evaluations;
    uint64_t weight_bytes, compute_bytes;          /* on the device: weights and their packed copies; everything a run needs beside */
} imago_report;
void imago_get_report(const imago *im, imago_report *out);

#ifdef __cplusplus
}
#endif
