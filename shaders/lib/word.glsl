/* word.glsl: W, the bits of one element, for shaders that move elements and never look at them.
 * SPDX-License-Identifier: MIT */
#if defined(T_H16)
#define W  uint16_t
#define W4 u16vec4
#else
#define W  uint
#define W4 uvec4
#endif
