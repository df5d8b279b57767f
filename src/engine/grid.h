/* grid.h: grids of pictures that are made together. Cells exchange what they show through self-attention only, so any
 * network with attention becomes a grid network: as a batch of cells whose keys are coupled, or as one tiled picture.
 * An adapter, a few more input channels and a vector per role teach it what a layout means.
 *   grid.c       pictures in, pictures out                           grid_fill.c   sampling: given cells stay, the others are made
 *   grid_net.c   the network on a batch's rows, both geometries      grid_model.c  what is trained; its file
 *   grid_step.c  a batch's masks and its loss                        train_grid.c  training
 * Sources: Zeng et al. 2024 (JeDi: coupled self-attention, a set as inpainting), Chen et al. 2025 (Edit Transfer: clean context
 * cells, loss on the missing one), Brooks et al. 2023 (two guidances), Abdal et al. 2025 (Grid-LoRA: layouts, query banks).
 * SPDX-License-Identifier: MIT */
#pragma once
#include "adapter/adapter.h"
#include "engine/engine.h"
#include "engine/train.h"
#include "train/grids.h"

/* BATCH: cells are entries of the batch. CANVAS: cells are tiled; convolutions and norms stay within a cell, so that both
 * compute the same. */
typedef enum grid_geometry { GRID_BATCH, GRID_CANVAS, GRID_GEOMETRY_COUNT } grid_geometry;
/* Whose keys a cell sees; cells that are made see all of their grid, but for NONE.
 *   GIVEN  given cells see the given ones: what is known of them depends on no step and is computed once
 *   ALL    all see all     OWN  a given cell sees itself     NONE  every cell sees itself */
typedef enum grid_sight { GRID_SEES_GIVEN, GRID_SEES_ALL, GRID_SEES_OWN, GRID_SEES_NONE, GRID_SIGHT_COUNT } grid_sight;
extern const char *const grid_sight_names[GRID_SIGHT_COUNT];

#define GRID_BANKS  3                      /* query adapters of their own: even and odd given cells, cells that are made */
#define GRID_TRAITS (GRID_ROLE_COUNT + GRID_MAX_CELLS)

/* What a grid adapter was made with; travels in its file. */
typedef struct grid_options {
    const adapter_info *adapter; adapter_options adapt;
    grid_sight sight;
    bool noised;                           /* given cells carry the step's noise (and its time); else they are clean at t = 0 */
    bool slots;                            /* cells know their place, not only their role */
    bool banks;
} grid_options;

/* What every self-attention layer made of the given cells. */
typedef struct grid_kept { array *k[UNET_MAX_ATTENTIONS], *v[UNET_MAX_ATTENTIONS]; int n, cells, h, w; } grid_kept;

/* An opened model with a grid adapter beside it: plans without a grid know nothing of it. */
typedef struct grid_model {
    imago *im; grid_options o;
    double strength;                       /* of all that is learned; 1 */
    adapter_set set, bank[GRID_BANKS];
    params ps, bank_ps[GRID_BANKS];        /* ps: the adapter, grid.conv_in.weight [O, C + 1, 3, 3], grid.role.weight [4 O, GRID_TRAITS] */
    grid_kept kept;
} grid_model;

/* ---- grid_model.c ---- */
/* Fresh: changes nothing until it is trained.   errors  E_UNSUPPORTED: inpainting and distilled networks; those of adapters
 *   owner  caller: grid_model_destroy (accepts NULL), before imago_close */
status grid_model_create(imago *im, const grid_options *o, uint32_t seed, grid_model **out);
void   grid_model_destroy(grid_model *m);
/* Every set of trainables: at most 1 + GRID_BANKS. */
int    grid_model_parts(grid_model *m, params *of[1 + GRID_BANKS], const char *name[1 + GRID_BANKS]);
status grid_model_save(const grid_model *m, const char *path, const safetensor_note *more, int n_more);
/*   errors  E_FORMAT: not a grid adapter, or one of another network: names what was seen */
status grid_model_open(imago *im, const char *path, grid_model **out);
status grid_model_forget(grid_model *m);   /* plans and kept keys: before other shapes, or other weights */

/* ---- grid_net.c ---- */
/* The rows of a batch: cells of grids, in whole grids of rows x cols where the geometry is CANVAS. */
typedef struct grid_rows {
    grid_geometry geometry; int rows, cols;
    int n, h, w, tokens;                   /* entries; latent cells of one; tokens of its text */
    const bool *sees; int columns;         /* [n][columns]: column c < n is entry c, n + c the kept cell c */
    bool masked;                           /* what is seen may be narrowed by grid_write_sight; CANVAS always can */
    bool keep;                             /* keys of all entries are kept */
} grid_rows;
/* Records the network on x [n, h, w, C] T -> f32 [n, h, w, C]. Inputs, all f32: "t" [n], "traits" [n, GRID_TRAITS],
 * "seen" [n, h, w, C + 1] (the picture of grid_seen, and 1 where one is to be made), "context" [n, tokens, D], and
 * with banks "bank0" ... [n]; the rest is written by grid_write_sight. */
tensor *grid_network(grid_model *m, graph *g, const grid_rows *r, tensor *x);
/* now [n][columns]: a part of r->sees; NULL = all of it. Once per plan, and again where it changes. */
status grid_write_sight(const grid_model *m, plan *p, const grid_rows *r, const bool *now);
/* May an entry see another one of its grid? */
bool   grid_may_see(grid_sight sight, bool from_made, bool to_made, bool same);
/* Whose picture the network is shown in a cell's own channels: its own where it is given; where an OUT or EX_OUT is made, that of
 * the QUERY or EX_IN which it lies on, pixel by pixel, if that is given: attention is coarse and would have to learn where
 * everything goes (Brooks et al. 2023 join the picture to be edited in the same way). -1 = none. */
int    grid_seen(const grid_role role[GRID_MAX_CELLS], const bool made[GRID_MAX_CELLS], int cells, int cell);
/* Row of "traits", and of the banks. */
void   grid_traits(const grid_options *o, grid_role role, int slot, float out[GRID_TRAITS]);
int    grid_bank_of(int slot, bool made);

/* ---- grid_fill.c ---- */
typedef struct grid_fill_params {
    int rows, cols, h, w;                  /* cells; latent cells of one */
    grid_role role[GRID_MAX_CELLS]; bool made[GRID_MAX_CELLS];
    const char *prompt[GRID_MAX_CELLS], *negative; /* NULL = none. Given cells have none unless told */
    int steps; const char *sampler;        /* 0 = 20; NULL = ddim, trailing */
    float guidance, ref_guidance;          /* of the words, of the given cells: 0 = all but ignored, 1 = as learned */
    uint64_t seed;
    grid_geometry geometry;
} grid_fill_params;
typedef struct grid_fill_report { double seconds, given_seconds; int steps, rows, rows_without; bool kept; } grid_fill_report;
/* z [cells][h, w, C]: given latents in, all latents out; cells that are given stay as they are, bit for bit, and with none to
 * be made nothing is computed.   errors  E_USAGE; E_CANCELLED; those of plans */
status grid_fill(grid_model *m, const grid_fill_params *p, float *z, grid_fill_report *report);

/* ---- grid.c ---- */
/* imago_grid with an adapter that is open already; p->adapter is its name. */
status grid_pictures(grid_model *m, const imago_grid_params *p, imago_picture **out, grid_fill_report *report);
/* Roles, and what is made, of a wish: by its layout, or by what is given.   errors  E_USAGE */
status grid_roles(const imago_grid_params *p, grid_role role[GRID_MAX_CELLS], bool made[GRID_MAX_CELLS], const char **name);

/* ---- grid_step.c ---- */
typedef struct grid_task {                 /* one grid of latents, as training sees it */
    const grid_layout *layout;
    bool made[GRID_MAX_CELLS], dropped[GRID_MAX_CELLS]; /* dropped: given, but nobody else sees it */
    bool words;                            /* cells that are made are told their caption */
} grid_task;
/* Which cells are made, dropped and told, by lot.   source  the rates of Brooks et al. 2023 for what guidance needs */
void grid_draw_task(uint32_t seed, uint64_t sample, const grid_layout *l, grid_task *out);
/* ---- train_grid.c ---- */
typedef struct train_grid_params {
    imago_open_params open;
    grid_source_params data;
    grid_options o; grid_geometry geometry;
    const char *out; bool overwrite;
    int side;                              /* px of a cell; 0 = the model's own */
    train_params run;                      /* run.folder NULL: beside out, as OUT.run */
} train_grid_params;
status train_grid(const train_grid_params *p);
