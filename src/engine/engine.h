/* engine.h: what the straight lines of the program share: an opened model on a device, the plans made of it, and the
 * latents that live between model calls. imago.h is the outside of it.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter_file.h"
#include "family/checkpoint.h"
#include "file/image.h"
#include "imago.h"
#include "sampler/noise.h"

/* Latents and text of one run, in STATE arrays so that no model call allocates. */
typedef struct latents {
    int batch, h, w, channels;             /* [batch, h, w, channels] f32 each */
    array *x, *kept[SAMPLER_MAX_KEPT];     /* x: variance preserving, see sampler.h */
    array *init, *noise, *mask;            /* inpainting: the picture's latent, the noise it is mixed with, [batch, h, w, 1] 1 = paint */
    array *fixed;                          /* 9-channel networks: mask and masked latent, [batch, h, w, 1 + channels] */
    int tokens, entries, n_kv;             /* text: [entries, tokens, width] per cross-attention layer */
    array *k[UNET_MAX_ATTENTIONS], *v[UNET_MAX_ATTENTIONS];
} latents;

#define ENGINE_MAX_ADAPTERS 16
typedef struct loaded_adapter { adapter_file *file; double strength; char name[128]; } loaded_adapter;

struct imago {
    device *dev; dtype type;
    checkpoint *ck; tokenizer *tok;
    params part[PART_COUNT];
    array *extra; int n_extra;             /* textual inversion rows [n_extra, hidden] */
    loaded_adapter adapter[ENGINE_MAX_ADAPTERS]; int n_adapters; arena folds;
    plan_cache *plans; latents lat;
    imago_progress_fn progress; bool (*cancelled)(void *); void *ctx;
    imago_report report; char described[1024];
};

/* ---- stages: progress and time ---- */
void engine_progress(imago *im, imago_stage s, int step, int steps, double started);
/* plan_run with the user's cancellation. */
status engine_run(imago *im, plan *p);
/* Drops every plan: the arrays they point to are about to go. */
status engine_forget_plans(imago *im);
/* The plan of this key, or the one that record makes: record fills g (of the right device). */
status engine_plan(imago *im, const char *key, status (*record)(imago *im, graph *g, const void *ctx), const void *ctx, plan **out);

/* ---- adapters.c ---- */
/* Opens adapter files and has the weights they touch folded whenever they are fetched. Before any plan is made. */
status adapters_load(imago *im, const char *const *specs, int n);
void   adapters_fini(imago *im);
/* The checkpoint with its adapters in the weights (checkpoint_write). */
status adapters_write_merged(imago *im, layout l, dtype type, const char *path);

/* ---- text.c ---- */
typedef struct text_params { const char *prompt, *negative; bool plain, want_negative; int clip_skip; } text_params;
/* -> context [entries, tokens, hidden] f32 (mem_alloc'ed): entry 0 the negative prompt when wanted, then the prompt. */
status text_features(imago *im, const text_params *p, float **out, int *entries, int *tokens);
/* Keys and values of every cross-attention layer for `batch` pictures: rows of `context` repeated per picture. */
status text_keys(imago *im, const float *context, int entries, int tokens, int batch);
status text_load_embedding(imago *im, const char *spec);

/* ---- latent.c: pictures <-> latents; noise in torch's order ---- */
status latents_prepare(imago *im, int batch, int h, int w);
void   latents_fini(imago *im);
int    latent_factor(const imago *im);     /* px per latent cell */
int    latent_side_px(const imago *im);    /* what the model was trained at */
status latent_check_size(const imago *im, int width, int height); /* E_USAGE: px that are no whole latent */
/* One picture's noise, drawn [C, h, w] from gen, to out [h, w, C]. */
status latent_noise(const imago *im, noise_gen *gen, int h, int w, float *out);
/* px [height, width, 3] in [-1, 1], sides multiples of the factor -> scaled latent [h, w, L] at out. The posterior is sampled
 * with gen (as diffusers), or taken at its mean when gen is NULL. */
status vae_encode_pixels(imago *im, const float *px, int height, int width, noise_gen *gen, float *out);
/* scaled latent [h, w, L] -> rgb, rounded. Tiles when asked, and when the whole does not fit. */
status vae_decode_picture(imago *im, const float *latent, int h, int w, bool tile, image *out);

/* ---- surprise.c ---- */
/* The model's loss on an RGB picture, no words given: mean |v' - v|^2 at noise of 30, 50 and 70 degrees, four draws each,
 * the same for all pictures. Low: like what the model was trained on, but also: empty or blurred.
 *   errors  E_USAGE: sides that are no whole latent; E_UNSUPPORTED: an inpainting model; those of a plan */
status picture_surprise(imago *im, const image *picture, double *loss);

/* ---- denoise.c: one model call and its update as one plan ---- */
typedef struct denoise_shape {
    int n_kept; bool guided, rescaled, noise, blend;
} denoise_shape;
status denoise_plan(imago *im, const denoise_shape *s, plan **out);
typedef struct denoise_inputs {
    const sampler_call *call; level next;  /* next: the level x has afterwards */
    float guidance, rescale; const float *noise; /* [batch, h, w, C] or NULL */
} denoise_inputs;
status denoise_run(imago *im, plan *p, const denoise_shape *s, const denoise_inputs *in);
/* Records the network on x [rows, h, w, in] T -> f32 [rows, h, w, out], with the text's keys of im->lat and, where given, a
 * rule of attention. Its inputs are written by denoise_write_time. */
tensor *denoise_network(imago *im, graph *g, const attention_rule *rule, tensor *x);
status denoise_write_time(imago *im, plan *p, int rows, double t, float guidance);
/* Writes input `name` [rows, n] f32, every row the same w. */
status denoise_write_rows(plan *p, const char *name, int rows, const double *w, int n);
/* eps or v? Asks the network at the last timestep: an eps network gives back about its input. */
status denoise_find_prediction(imago *im);

/* ---- picture.c ---- */
/* The texts that reproduce pic: A1111's "parameters" line and imago's JSON. p has its defaults filled in. */
status picture_describe(const imago *im, const imago_generate_params *p, const sampler_info *s, const sampler_params *sp, imago_picture *pic);
void   picture_of(image *im, imago_picture *out);       /* takes over the pixels (3 channels) */
image  picture_image(const imago_picture *p);           /* a view: not to be freed */

#define ENGINE_STATUS(st) ((imago_status)(st))
