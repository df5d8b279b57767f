// types: h16 needs: coopmat
/* conv2d_coopmat.comp: conv2d on cooperative matrices: f16 operands, f32 sums. See lib/conv2d_body.glsl.
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_basic : require
#include "io.glsl"
#include "conv2d_io.glsl"
#include "coopmat.glsl"
#include "epilogue.glsl"
#include "conv2d_body.glsl"
