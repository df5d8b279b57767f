/* checkpoint_parts.h: what the files of checkpoint_*.c share: names, configs, and the list of parameters of a part.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "family/checkpoint.h"

/* ---- names: the original layout (LDM, OpenCLIP) <-> diffusers ---- */
/* A piece of a name. In hf, "*" stands for q, k and v in turn: OpenCLIP keeps the three in one tensor. */
typedef struct name_row { const char *ldm, *hf; } name_row;
/* One module: its name in both layouts, and the names of what is inside (NULL = the same in both). */
typedef struct name_pair { char ldm[64], hf[64]; const name_row *inner; } name_pair;
typedef struct name_map { name_pair *pair; int n, cap; } name_map;
void   names_fini(name_map *m);
status names_unet(const unet_config *c, name_map *m);
status names_vae(const vae_config *c, name_map *m);
status names_openclip(const text_config *c, name_map *m);
/* false = no row fits. to_hf may leave a "*" in the name; to_ldm gives the joined tensor's name for each of the three. */
bool names_to_hf(const name_map *m, const char *ldm, char out[128]);
bool names_to_ldm(const name_map *m, const char *hf, char out[128]);
/* Names that older writers gave to the same tensors: a diffusers autoencoder's attention ("query"), transformers' text
 * model without "text_model.". */
bool names_modern(part p, const char *old, char out[128]);
/* Tensors that are known and not needed: buffers, averages, losses. Names as in single files, or within a part. */
bool names_ignored(const char *name);
/* "Stable Diffusion XL" and the like, when the set of tensors is something we recognise and cannot open; else NULL. */
const char *names_foreign(const weights *w);

/* ---- configs ---- */
status config_read_unet(const json *j, const char *what, unet_config *c, int *sample_size);
status config_read_vae(const json *j, const char *what, vae_config *c);
status config_read_text(const json *j, const char *what, text_config *c);
/* _class_name, where it is a plain word; else otherwise. */
const char *config_class(const json *j, const char *otherwise);
/* From the shapes in a file of the original layout. */
status config_infer_unet(const weights *w, const char *prefix, unet_config *c);
status config_infer_vae(const weights *w, const char *prefix, vae_config *c);
status config_infer_text(const weights *w, const char *prefix, bool openclip, text_config *c);

/* ---- parts ---- */
status parts_open_folder(checkpoint *c, const checkpoint_options *o);
status parts_open_single(checkpoint *c, const checkpoint_options *o);
status parts_open_vae(checkpoint *c, const char *path);       /* --vae */
/* A whole JSON file; E_IO when it is not there. */
status parts_read_json(const char *path, json **out);
