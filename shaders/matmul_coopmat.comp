// types: h16 needs: coopmat
/* matmul_coopmat.comp: matmul on cooperative matrices: f16 operands, f32 sums. See lib/matmul_body.glsl.
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_basic : require
#include "io.glsl"
#include "matmul_io.glsl"
#include "coopmat.glsl"
#include "epilogue.glsl"
#include "matmul_body.glsl"
