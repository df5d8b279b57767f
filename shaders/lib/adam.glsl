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
