/* read.h: what the files that read adapters share: tensors grouped by layer, with their roles.
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter_file.h"

/* What a tensor of a file is to its layer, by the end of its name. */
typedef enum role {
    ROLE_DOWN, ROLE_UP, ROLE_MID, ROLE_ALPHA, ROLE_MAGNITUDE, ROLE_OFT_VECTOR, ROLE_OFT_SCALED, ROLE_OFT_MATRIX, ROLE_OFT_SCALE,
    ROLE_OFT_BLOCKS, ROLE_OFT_DIAG, ROLE_BOFT, ROLE_RESCALE, ROLE_DIFF, ROLE_DIFF_BIAS, ROLE_NORM, ROLE_NORM_BIAS, ROLE_IGNORED, ROLE_COUNT
} role;

/* How the layer was spelled, which tells programs apart. */
typedef enum spelling { SPELL_PEFT, SPELL_DIFFUSERS, SPELL_KOHYA, SPELL_KOHYA_OFT, SPELL_LYCORIS, SPELL_INDEX, SPELL_COUNT } spelling;

typedef struct layer_group {
    int model; const param *p;             /* the weight */
    spelling spelled; const safetensor *t[ROLE_COUNT];
    char layer[128];
} layer_group;

typedef struct reading {
    adapter_file *f; const safetensors *s; const json *config; const json *metadata; /* PEFT's, or diffusers' note; NULL */
    const char *told;                      /* the dialect asked for; NULL */
    layer_group *group; int n_groups, cap;
} reading;

/* read_names.c: files every tensor under its layer. */
status read_group_all(reading *r);
/* read_kinds.c, read_rotations.c: one group -> an entry of its model with its values. */
status read_group_convert(reading *r, const layer_group *g);
status read_rotation(reading *r, const layer_group *g);

/* ---- for converters ---- */
/* Adds an entry with room for its values: v[i], zeroed. Checks that info takes the layer. */
status read_add(reading *r, const layer_group *g, const adapter_info *info, const adapter_options *o, float *v[ADAPTER_MAX_TENSORS], int64_t count[ADAPTER_MAX_TENSORS]);
/* The first reason given stays. */
void   read_say(reading *r, const char *dialect, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* PEFT's config field for this layer, from adapter_config.json or the note; NULL */
const json *read_config(const reading *r, const layer_group *g, const char *field);
double read_number(const reading *r, const layer_group *g, const char *field, double otherwise);
bool   read_true(const reading *r, const layer_group *g, const char *field, bool otherwise);
bool   read_told(const reading *r, const char *dialect);
/* Whole tensor as f32 in the reading's arena; E_SHAPE unless it has `count` elements (0 = any). */
status read_values(reading *r, const layer_group *g, role k, int64_t count, const float **out);
