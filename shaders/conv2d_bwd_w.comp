// types: f32 h16
/* conv2d_bwd_w.comp: see lib/conv2d_bwd_w_body.glsl.
 * SPDX-License-Identifier: MIT */
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "io.glsl"
#include "conv2d_bwd_w_io.glsl"
#include "tile.glsl"
#include "conv2d_bwd_w_body.glsl"
