/* op.c: the table of all ops, from ops.def.
 * SPDX-License-Identifier: MIT */
#include "op/op.h"

#define OP(name) extern const op_info op_##name##_info;
#include "op/ops.def"
#undef OP

static const op_info *const infos[] = {
#define OP(name) &op_##name##_info,
#include "op/ops.def"
#undef OP
};

static tensor *add(graph *g, tensor *a, tensor *b, const char *at) {
    return op_binary_(g, a, b, B_ADD, at);
}

const op_table op_all = {infos, (int)ARRAY_LEN(infos), add, op_cast_};
