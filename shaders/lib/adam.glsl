/* adam.glsl: what the optimisers of Adam's kind share.
 * SPDX-License-Identifier: MIT */

// 1 - beta^step. With beta near 1 the built-in log and pow lose all digits of it: log(beta) as
// -2 atanh(z), z = (1 - beta) / (1 + beta), and Taylor for small exponents.
float bias_correction(float beta, float steps) {
    float z = (1.0 - beta) / (1.0 + beta), q = z * z;
    float l = 1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0));
    l = -2.0 * z * (1.0 + q * (1.0 / 3.0 + q * (1.0 / 5.0 + q * l)));
    float e = steps * (beta < 0.5 ? log(beta) : l);
    if (e < -0.5) return 1.0 - exp(e);
    float r = 1.0 + e / 5.0 * (1.0 + e / 6.0 * (1.0 + e / 7.0 * (1.0 + e / 8.0)));
    return -e * (1.0 + e / 2.0 * (1.0 + e / 3.0 * (1.0 + e / 4.0 * r)));
}

// One step on gradient g: moments m and v in place, returns the new weight. h: lr, beta1, beta2, eps; decay: of the weight.
float adam_update(float w, float g, inout float m, inout float v, vec4 h, float decay, float steps) {
    m += (1.0 - h.y) * (g - m);
    v = h.z * v + (1.0 - h.z) * g * g;
    float denom = sqrt(v) / sqrt(bias_correction(h.z, steps)) + h.w;
    return w * (1.0 - h.x * decay) - h.x / bias_correction(h.y, steps) * m / denom;
}
