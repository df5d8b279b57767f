#!/usr/bin/env python3
"""Makes adamw8bit.safetensors: AdamW whose moments are 8-bit codes on the dynamic map, in blocks of 256 with a scale each
(Dettmers et al. 2022; what bitsandbytes' blockwise AdamW8bit computes), in NumPy, in float64. The order of decay and step is
torch.optim.AdamW's.

Run:  python3 -m venv v && v/bin/pip install numpy==2.4.6 safetensors==0.8.0 && v/bin/python tests/golden/make_adamw8bit.py
start [N], grad [STEPS, N] f16, p [N] f32 after all steps, codes [B, 512] u8 (m, then v), scale [B, 2] f32, of a parameter of N elements in
8 bits.   SPDX-License-Identifier: MIT
"""
import os
import numpy as np
from safetensors.numpy import save_file

N, STEPS, BLOCK = 4270, 6, 256
LR, B1, B2, EPS, DECAY = (float(np.float32(x)) for x in (1e-2, 0.9, 0.999, 1e-8, 1e-2))


def dynamic_map(signed):
    """Seven decades below 1; decade i is cut into 2^i (signed) or 2^(i+1) parts, whose middles are the levels."""
    levels = [0.0, 1.0]
    for i in range(7):
        edges = np.linspace(0.1, 1, 2 ** (i + (0 if signed else 1)) + 1)
        middles = (edges[1:] + edges[:-1]) / 2 * 10.0 ** (i - 6)
        levels += list(middles) + (list(-middles) if signed else [])
    assert len(levels) == 256
    return np.sort(levels)


def nearest(levels, x):
    at = np.clip(np.searchsorted(levels, x), 1, 255)
    return np.where(x - levels[at - 1] <= levels[at] - x, at - 1, at)


def quantise(levels, x, signed):
    blocks = np.pad(x, (0, -len(x) % BLOCK)).reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1)
    code = nearest(levels, blocks / np.where(scale > 0, scale, 1)[:, None])
    if signed:
        code = np.where((levels[code] == 0) & (blocks < 0), code - 1, code)
    return code.astype(np.uint8), scale


signed, unsigned = dynamic_map(True), dynamic_map(False)
rng = np.random.default_rng(8)
start = rng.standard_normal(N).astype(np.float32)
grad = (rng.standard_normal((STEPS, N)) * 10.0 ** rng.uniform(-4, 0, N)).astype(np.float16)
p = start.astype(np.float64)
codes = [np.zeros((-(-N // BLOCK), BLOCK), np.uint8)] * 2
scale = [np.zeros(len(codes[0]))] * 2
for t in range(1, STEPS + 1):
    g = grad[t - 1].astype(np.float64)
    m = (signed[codes[0]] * scale[0][:, None]).reshape(-1)[:N] * B1 + (1 - B1) * g
    v = (unsigned[codes[1]] * scale[1][:, None]).reshape(-1)[:N] * B2 + (1 - B2) * g * g
    p = p * (1 - LR * DECAY) - LR / (1 - B1 ** t) * m / (np.sqrt(v) / np.sqrt(1 - B2 ** t) + EPS)
    (c0, s0), (c1, s1) = quantise(signed, m, True), quantise(unsigned, v, False)
    codes, scale = [c0, c1], [s0, s1]
save_file({"start": start, "grad": grad, "p": p.astype(np.float32), "codes": np.concatenate(codes, axis=1),
           "scale": np.stack(scale, axis=1).astype(np.float32)},
          os.path.join(os.path.dirname(os.path.abspath(__file__)), "adamw8bit.safetensors"))
