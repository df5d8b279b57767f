/* spirv.c: reads a module's interface from its words: storage buffer bindings and whether they
 * are read or written, push constant size, local size, constants, and what it needs of the
 * device. So a dispatch is checked against what the shader says, and barriers follow from the
 * shader's own decorations. Words are not trusted (shaders may come prebuilt): every index is
 * checked against the module.
 * source  The Khronos SPIR-V specification 1.6, §2.3 (layout of a module) and §3 (numbers)
 * SPDX-License-Identifier: MIT */
#include "gpu/gpu_internal.h"

#define MAX_BOUND (1u << 18) /* ids of a module; ours have some thousands */

/* clang-format off */
enum { /* opcodes, storage classes, decorations, execution modes */
    OP_EXECUTION_MODE = 16, OP_CAPABILITY = 17, OP_TYPE_INT = 21, OP_TYPE_FLOAT = 22,
    OP_TYPE_VECTOR = 23, OP_TYPE_MATRIX = 24, OP_TYPE_ARRAY = 28, OP_TYPE_STRUCT = 30,
    OP_TYPE_POINTER = 32, OP_CONSTANT = 43, OP_CONSTANT_COMPOSITE = 44, OP_SPEC_CONSTANT = 50,
    OP_SPEC_CONSTANT_COMPOSITE = 51, OP_FUNCTION = 54, OP_VARIABLE = 59, OP_DECORATE = 71,
    OP_MEMBER_DECORATE = 72, OP_EXECUTION_MODE_ID = 331,
    CLASS_UNIFORM_CONSTANT = 0, CLASS_UNIFORM = 2, CLASS_PUSH = 9, CLASS_STORAGE = 12,
    DEC_SPEC_ID = 1, DEC_ARRAY_STRIDE = 6, DEC_BUILTIN = 11, DEC_NON_WRITABLE = 24,
    DEC_NON_READABLE = 25, DEC_BINDING = 33, DEC_SET = 34, DEC_OFFSET = 35,
    BUILTIN_WORKGROUP_SIZE = 25, MODE_LOCAL_SIZE = 17, MODE_LOCAL_SIZE_ID = 38
};
/* clang-format on */

typedef struct module {
    const char *name;
    const uint32_t *w;
    size_t n;
    uint32_t bound;
    uint32_t *def; /* [bound] word index of the instruction that defines an id, 0 = none */
} module;

static uint32_t op_of(const module *m, size_t at) { return m->w[at] & 0xffffu; }
static uint32_t len_of(const module *m, size_t at) { return m->w[at] >> 16; }

/* Operand k (1 = first word after the opcode) of the instruction at `at`; 0 past its end. */
static uint32_t arg(const module *m, size_t at, uint32_t k) {
    return k < len_of(m, at) ? m->w[at + k] : 0;
}

/* Where id is defined, if by opcode `op`; 0 otherwise. */
static size_t def_of(const module *m, uint32_t id, uint32_t op) {
    size_t at = id < m->bound ? m->def[id] : 0;
    return at && op_of(m, at) == op ? at : 0;
}

static status broken(const module *m, const char *what) {
    return fail(E_FORMAT, "shader %s: %s: rebuild the program", m->name, what);
}

/* Iterates over instructions: `for (size_t at = 5; at < m->n; at += len_of(m, at))`, valid after
 * this. */
static status check_words(module *m) {
    if (m->n < 5 || m->w[0] != 0x07230203u)
        return broken(m, "not SPIR-V of this machine's byte order");
    m->bound = m->w[3];
    if (m->bound == 0 || m->bound > MAX_BOUND) return broken(m, "SPIR-V with too many ids");
    for (size_t at = 5; at < m->n; at += len_of(m, at))
        if (len_of(m, at) == 0 || len_of(m, at) > m->n - at) return broken(m, "truncated SPIR-V");
    return OK;
}

/* Word of the result id of the declarations this file looks up; 0 = not one of them. */
static uint32_t result_at(uint32_t op) {
    switch (op) {
    case OP_TYPE_INT:
    case OP_TYPE_FLOAT:
    case OP_TYPE_VECTOR:
    case OP_TYPE_MATRIX:
    case OP_TYPE_ARRAY:
    case OP_TYPE_STRUCT:
    case OP_TYPE_POINTER:
        return 1;
    case OP_CONSTANT:
    case OP_CONSTANT_COMPOSITE:
    case OP_SPEC_CONSTANT:
    case OP_SPEC_CONSTANT_COMPOSITE:
    case OP_VARIABLE:
        return 2;
    }
    return 0;
}

static void index_ids(module *m) {
    for (size_t at = 5; at < m->n && op_of(m, at) != OP_FUNCTION; at += len_of(m, at)) {
        uint32_t k = result_at(op_of(m, at)), id = k ? arg(m, at, k) : 0;
        if (id > 0 && id < m->bound) m->def[id] = (uint32_t)at;
    }
}

/* The literal of decoration `dec` on id; false when it is not so decorated. */
static bool decoration(const module *m, uint32_t id, uint32_t dec, uint32_t *value) {
    for (size_t at = 5; at < m->n && op_of(m, at) != OP_FUNCTION; at += len_of(m, at))
        if (op_of(m, at) == OP_DECORATE && arg(m, at, 1) == id && arg(m, at, 2) == dec) {
            *value = arg(m, at, 3);
            return true;
        }
    return false;
}

static bool member_decoration(const module *m, uint32_t id, uint32_t member, uint32_t dec,
                              uint32_t *value) {
    for (size_t at = 5; at < m->n && op_of(m, at) != OP_FUNCTION; at += len_of(m, at))
        if (op_of(m, at) == OP_MEMBER_DECORATE && arg(m, at, 1) == id && arg(m, at, 2) == member &&
            arg(m, at, 3) == dec) {
            *value = arg(m, at, 4);
            return true;
        }
    return false;
}

/* Is the variable, or else every member of its block, decorated so? */
static bool block_decorated(const module *m, uint32_t var, uint32_t block, uint32_t members,
                            uint32_t dec) {
    uint32_t v;
    if (decoration(m, var, dec, &v)) return true;
    for (uint32_t k = 0; k < members; k++)
        if (!member_decoration(m, block, k, dec, &v)) return false;
    return members > 0;
}

/* Bytes of a type inside a push block; 0 = a type that push blocks of this program do not have. */
static uint32_t type_bytes(const module *m, uint32_t id, int depth) {
    size_t at;
    uint32_t stride = 0, count;
    if (depth > 4) return 0;
    if ((at = def_of(m, id, OP_TYPE_INT)) || (at = def_of(m, id, OP_TYPE_FLOAT)))
        return arg(m, at, 2) / 8;
    if ((at = def_of(m, id, OP_TYPE_VECTOR))) {
        count = arg(m, at, 3);
        return count <= 4 ? count * type_bytes(m, arg(m, at, 2), depth + 1) : 0;
    }
    if ((at = def_of(m, id, OP_TYPE_ARRAY))) {
        size_t c = def_of(m, arg(m, at, 3), OP_CONSTANT);
        if (!c || !decoration(m, id, DEC_ARRAY_STRIDE, &stride)) return 0;
        count = arg(m, c, 3);
        return count <= 256 && stride <= 256 ? count * stride : 0;
    }
    return 0;
}

static status read_push(const module *m, uint32_t block, spirv_info *o) {
    size_t at = def_of(m, block, OP_TYPE_STRUCT);
    if (!at) return broken(m, "a push constant that is no block");
    uint32_t end = 0;
    for (uint32_t k = 0; k + 2 < len_of(m, at); k++) {
        uint32_t offset = 0, bytes = type_bytes(m, arg(m, at, k + 2), 0);
        if (!member_decoration(m, block, k, DEC_OFFSET, &offset) || offset > 128 || bytes == 0 ||
            bytes > 128)
            return broken(m, "a push block of other things than scalars, vectors and arrays");
        end = MAX(end, offset + bytes);
    }
    if (end > 128) return broken(m, "a push block over 128 bytes");
    o->push_bytes = (end + 3u) & ~3u;
    return OK;
}

static status read_buffer(const module *m, uint32_t var, uint32_t block, spirv_info *o) {
    uint32_t binding = 0, set = 0;
    size_t at = def_of(m, block, OP_TYPE_STRUCT);
    if (!at) return broken(m, "a storage buffer that is no block");
    if (!decoration(m, var, DEC_BINDING, &binding) ||
        (decoration(m, var, DEC_SET, &set) && set != 0) || binding >= GPU_MAX_BIND)
        return broken(m, "a storage buffer outside set 0, bindings 0.." STR(GPU_MAX_BIND) "-1");
    uint32_t members = len_of(m, at) - 2, bit = 1u << binding;
    o->used |= bit;
    if (!block_decorated(m, var, block, members, DEC_NON_READABLE)) o->reads |= bit;
    if (!block_decorated(m, var, block, members, DEC_NON_WRITABLE)) o->writes |= bit;
    o->n_bind = MAX(o->n_bind, binding + 1);
    return OK;
}

static status read_variables(const module *m, spirv_info *o) {
    status st = OK;
    for (size_t at = 5; at < m->n && op_of(m, at) != OP_FUNCTION; at += len_of(m, at)) {
        if (op_of(m, at) != OP_VARIABLE) continue;
        uint32_t var = arg(m, at, 2), class = arg(m, at, 3);
        size_t ptr = def_of(m, arg(m, at, 1), OP_TYPE_POINTER);
        if (!ptr) return broken(m, "a variable of no pointer type");
        uint32_t block = arg(m, ptr, 3);
        if (class == CLASS_STORAGE) TRY(read_buffer(m, var, block, o));
        if (class == CLASS_PUSH) TRY(read_push(m, block, o));
        if (class == CLASS_UNIFORM || class == CLASS_UNIFORM_CONSTANT)
            TRY(broken(m, "a uniform buffer or image: only storage buffers are bound"));
    }
out:
    return st;
}

/* Value and constant id of a 32-bit scalar constant. */
static bool read_constant(const module *m, uint32_t id, spirv_local *o) {
    size_t at = def_of(m, id, OP_CONSTANT);
    o->spec = -1;
    if (!at) {
        uint32_t spec = 0;
        at = def_of(m, id, OP_SPEC_CONSTANT);
        if (at && decoration(m, id, DEC_SPEC_ID, &spec) && spec <= GPU_MAX_SPEC)
            o->spec = (int)spec;
    }
    if (!at || len_of(m, at) < 4) return false;
    o->value = arg(m, at, 3);
    return true;
}

/* The WorkgroupSize builtin overrides the execution mode (§3.6, LocalSize). */
static status read_local_size(const module *m, spirv_info *o) {
    size_t composite = 0;
    bool found = false;
    for (size_t at = 5; at < m->n && op_of(m, at) != OP_FUNCTION; at += len_of(m, at)) {
        uint32_t op = op_of(m, at);
        if (op == OP_EXECUTION_MODE && arg(m, at, 2) == MODE_LOCAL_SIZE && len_of(m, at) >= 6) {
            for (uint32_t k = 0; k < 3; k++) o->local[k] = (spirv_local){arg(m, at, 3 + k), -1};
            found = true;
        }
        if (op == OP_EXECUTION_MODE_ID && arg(m, at, 2) == MODE_LOCAL_SIZE_ID &&
            len_of(m, at) >= 6) {
            found = true;
            for (uint32_t k = 0; k < 3; k++)
                found = found && read_constant(m, arg(m, at, 3 + k), &o->local[k]);
        }
        if (op == OP_DECORATE && arg(m, at, 2) == DEC_BUILTIN &&
            arg(m, at, 3) == BUILTIN_WORKGROUP_SIZE) {
            composite = def_of(m, arg(m, at, 1), OP_SPEC_CONSTANT_COMPOSITE);
            if (!composite) composite = def_of(m, arg(m, at, 1), OP_CONSTANT_COMPOSITE);
        }
    }
    if (composite) {
        found = len_of(m, composite) == 6;
        for (uint32_t k = 0; k < 3; k++)
            found = found && read_constant(m, arg(m, composite, 3 + k), &o->local[k]);
    }
    return found ? OK : broken(m, "no local size that could be read");
}

static void read_declared(const module *m, spirv_info *o) {
    static const struct {
        uint32_t capability, ability;
    } table[] = {
        {22, ABLE_INT16},
        {11, ABLE_INT64},
        {9, ABLE_F16},
        {10, ABLE_F64},
        {4433, ABLE_STORAGE16},
        {5345, ABLE_MEMORY_MODEL},
        {5346, ABLE_MEMORY_MODEL_DEVICE},
        {6022, ABLE_COOPMAT},
        {5116, ABLE_BF16},
        {5118, ABLE_BF16_COOPMAT},
        {61, ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_BASIC_BIT},
        {62, ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_VOTE_BIT},
        {63, ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_ARITHMETIC_BIT},
        {64, ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_BALLOT_BIT},
        {65, ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_SHUFFLE_BIT},
        {66, ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_SHUFFLE_RELATIVE_BIT},
        {67, ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_CLUSTERED_BIT},
        {68, ABLE_SUBGROUP_BASIC * VK_SUBGROUP_FEATURE_QUAD_BIT},
    };
    for (size_t at = 5; at < m->n && op_of(m, at) != OP_FUNCTION; at += len_of(m, at)) {
        if (op_of(m, at) == OP_CAPABILITY)
            for (size_t k = 0; k < ARRAY_LEN(table); k++)
                if (table[k].capability == arg(m, at, 1)) o->abilities |= table[k].ability;
        if (op_of(m, at) == OP_DECORATE && arg(m, at, 2) == DEC_SPEC_ID && arg(m, at, 3) < 64)
            o->spec_ids |= (uint64_t)1 << arg(m, at, 3);
    }
}

status gpu_spirv_read(const char *name, const uint32_t *words, size_t n, spirv_info *out) {
    status st = OK;
    *out = (spirv_info){0};
    module m = {.name = name, .w = words, .n = n};
    TRY(check_words(&m));
    if (!(m.def = mem_zalloc(m.bound * sizeof *m.def)))
        TRY(fail(E_HOST_MEMORY, "no host memory to read shader %s", name));
    index_ids(&m);
    read_declared(&m, out);
    TRY(read_variables(&m, out));
    TRY(read_local_size(&m, out));
out:
    mem_free(m.def);
    return st;
}
