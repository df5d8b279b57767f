/* base.h: what every room stands on: status, log, memory, arena, half floats, rng, json, files, time.
 * Layer 0: includes libc and cJSON only. Every OS call of the program is in os_*.c behind this header.
 * SPDX-License-Identifier: MIT */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- status and the error trace ----
 * World trouble (file, GPU, user, memory) is a status and a message in the thread's error trace.
 * Bugs are asserts. */
typedef enum status {
    OK, E_USAGE, E_IO, E_FORMAT, E_SHAPE, E_UNSUPPORTED,
    E_HOST_MEMORY, E_GPU_MEMORY, E_DEVICE_LOST, E_CANCELLED, STATUS_COUNT
} status;

#define STR_(x) #x
#define STR(x) STR_(x)
#define HERE __FILE__ ":" STR(__LINE__)

/* Set the thread's message (replaces what was there) and return st. */
status fail(status st, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Append "at: what" to the thread's trace; keeps st. */
status error_trace(status st, const char *at, const char *what);
const char *error_message(void);    /* the one line for people: what was seen, expected, to do */
const char *error_backtrace(void);  /* the frames, innermost first, one a line; "" if none */
void error_clear(void);
const char *status_name(status st);

/* For functions with a `status st = OK;` and an `out:` label. */
#define TRY(call)                                                                                  \
    do {                                                                                           \
        st = (call);                                                                               \
        if (st != OK) {                                                                            \
            error_trace(st, HERE, #call);                                                          \
            goto out;                                                                              \
        }                                                                                          \
    } while (0)

/* ---- log: the one mutable global is the sink ---- */
typedef enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG, LOG_LEVEL_COUNT } log_level;
void log_to(log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void log_set_level(log_level level);
#define log_error(...) log_to(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_to(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_to(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_to(LOG_DEBUG, __VA_ARGS__)

/* ---- debug switches (debug.c owns every getenv) ---- */
typedef struct debug_switches {
    log_level log;                          /* IMAGO_LOG=error|warn|info|debug */
    bool check_finite, check_ref, check_guard; /* IMAGO_CHECK=finite,ref,guard */
    bool gpu_tiles;                         /* IMAGO_CHECK=tiles: a software driver multiplies as a GPU would */
    const char *dump_dir;                   /* IMAGO_DUMP=dir, NULL if unset */
    bool profile;                           /* IMAGO_PROFILE=1 */
} debug_switches;
const debug_switches *debug_get(void);      /* read once, then constant */

/* ---- host memory: counted, and made to fail by the fault ring ---- */
void *mem_alloc(size_t bytes);              /* 64-byte aligned, uninitialised; NULL when short (no message) */
void *mem_zalloc(size_t bytes);             /* the same, zeroed */
void *mem_realloc(void *p, size_t old_bytes, size_t new_bytes);
void  mem_free(void *p);                    /* accepts NULL */
int64_t mem_live(void);                     /* blocks alive: the leak check of tests */
/* Fault ring: the n-th fallible step (allocation, file read/write/open) from now fails, 0 = never.
 * fault_hit() is called by those steps. Test-only state, kept atomic in fault.c. */
void fault_arm(int64_t nth);
bool fault_hit(void);
int64_t fault_count(void);                  /* fallible steps since fault_arm */

/* ---- arena: allocate much, free once ---- */
typedef struct arena { struct arena_block *head; size_t total_bytes; } arena;
void *arena_alloc(arena *a, size_t bytes);  /* zeroed, 16-byte aligned; NULL when memory is short */
char *arena_printf(arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void  arena_fini(arena *a);
#define arena_new(a, type, n) ((type *)arena_alloc((a), sizeof(type) * (size_t)(n)))

/* ---- half floats: round to nearest even, NaN stays NaN ---- */
uint16_t f32_to_f16(float x);
float    f16_to_f32(uint16_t h);
static inline float bf16_to_f32(uint16_t h) {
    uint32_t u = (uint32_t)h << 16; float f; memcpy(&f, &u, 4); return f;
}
static inline uint16_t f32_to_bf16(float x) {
    uint32_t u; memcpy(&u, &x, 4);
    uint32_t r = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16, q = (u >> 16) | 0x40u;
    return (uint16_t)((u & 0x7fffffffu) > 0x7f800000u ? q : r);
}

/* ---- rng: counter-based (Philox4x32-10), keyed by what it is for, never by who draws it.
 * Words w = philox(ctr = {elem lo, elem hi, sample lo, sample hi}, key = {seed[0], seed[1] ^ stream}).
 *   uniform = (w0 >> 8) * 2^-24
 *   normal  = sqrt(-2 ln u1) cos(2 pi u2),  u1 = (w0 + 1) * 2^-32,  u2 = w1 * 2^-32   (Box & Muller 1958)
 * One draw per element, w2 and w3 unused: an element's value then depends on nothing but its own index.
 * Shaders compute the same words, then the formula in f32.
 * source  Salmon et al. 2011 */
typedef struct rng_key { uint32_t seed[2]; uint32_t stream; } rng_key; /* stream: hash of a name, rng_stream("noise") */
uint32_t rng_stream(const char *name);
void   rng_philox(const uint32_t ctr[4], const uint32_t key[2], uint32_t out[4]);
double rng_uniform(rng_key k, uint64_t sample, uint64_t elem); /* [0, 1) */
double rng_normal (rng_key k, uint64_t sample, uint64_t elem);

/* ---- threads ---- */
int os_cpu_count(void);

/* ---- time, terminal, signals, paths, files (os_*.c) ---- */
double os_seconds(void);                     /* monotonic */
bool   os_is_terminal(int fd);
int    os_terminal_columns(void);
void   os_cancel_on_interrupt(void);         /* first Ctrl-C sets the flag, a second one kills */
bool   os_cancelled(void);
/* Starts this program again with name=value in its environment. Comes back only if that cannot be done. */
void   os_restart_with(const char *name, const char *value, char **argv);
bool   os_program_folder(char path[1024]);    /* where the running program's file lies, without '/' at the end */
/* Runs argv[0], looked for as a shell would, with argv until NULL, and waits. Its input is empty, what it prints is dropped.
 * *code: its exit status; 127: there is no such program; 128 + n: ended by signal n.   errors  E_IO: the system cannot start one */
status os_run(const char *const *argv, int *code);
bool   os_request_tile_state(void);           /* x86 AMX: may this process use tile registers? */
uint64_t os_memory_total_bytes(void);
uint64_t os_memory_available_bytes(void);
uint64_t os_peak_memory_bytes(void);         /* most resident memory this process has had */
uint64_t os_entropy(void);                    /* for seeds nobody chose */
status os_mkdir_p(const char *path);
bool   os_file_exists(const char *path);
status os_file_remove(const char *path);     /* a file that is not there is fine */
status os_file_rename(const char *from, const char *to); /* in one folder; replaces */
/* Whole file, at most max_bytes. *data is mem_alloc'ed, caller frees, one extra NUL follows. */
status file_read(const char *path, size_t max_bytes, uint8_t **data, size_t *bytes);
/* Written to a temporary beside path, flushed, renamed: a killed run leaves the old file or the new. */
status file_write_atomic(const char *path, const void *data, size_t bytes);
/* The same in pieces. After a failed write call abort; commit releases everything in any case. */
typedef struct file_out { int fd; char *path, *temp; } file_out;
status file_out_open(const char *path, file_out *f);
status file_out_write(file_out *f, const void *data, size_t bytes);
status file_out_commit(file_out *f);
void   file_out_abort(file_out *f);
/* A folder in the same manner: filled under a temporary name beside path, renamed by commit, which replaces an old folder
 * in one step. The caller has made sure that an old one may go. After a failed write call abort. */
typedef struct folder_out { char *path, *temp; } folder_out;
status folder_out_open(const char *path, folder_out *f);
status folder_out_commit(folder_out *f);
void   folder_out_abort(folder_out *f);
bool   os_is_folder(const char *path);
/* Names in a folder, sorted by bytes, without those that begin with a dot; in a. errors E_IO, E_HOST_MEMORY */
status os_folder_list(const char *path, arena *a, const char ***names, int *n);
typedef struct file_map { const uint8_t *data; size_t bytes; } file_map;
status file_map_open(const char *path, file_map *m);
void   file_map_close(file_map *m);
/* Whole pages of a file_map inside the range may leave memory; the next access reads them again. Nothing else
 * than a file_map: pages that no file backs would come back zeroed. */
void   os_pages_release(const void *data, uint64_t bytes);

/* ---- progress: a bar with ETA on a terminal, plain lines in a log ---- */
typedef struct progress { const char *what; int64_t total, done, first; /* first: done before this run */ double start, last; bool tty; int shown; } progress;
void progress_begin(progress *p, const char *what, int64_t total);
void progress_step(progress *p, int64_t done, const char *note); /* note: "loss 0.123", may be NULL */
void progress_end(progress *p);

/* ---- json: cJSON with depth and size capped ---- */
typedef struct cJSON json;
#define JSON_MAX_BYTES ((size_t)100 << 20)
#define JSON_MAX_DEPTH 64
status json_parse(const char *text, size_t bytes, const char *what, json **out); /* caller json_free */
void   json_free(json *j);

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)    ((a) < (b) ? (a) : (b))
#define MAX(a, b)    ((a) > (b) ? (a) : (b))
static inline int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline size_t align_up(size_t a, size_t b) { return (a + b - 1) / b * b; }
