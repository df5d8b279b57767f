#!/usr/bin/env python3
"""The peer of bench_step: diffusers' UNet and decoder on PyTorch's CPU build, the same evaluations.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0
      v/bin/python tests/bench/bench_step_torch.py MODEL [bfloat16|float32] [side_px] [steps]
One step is one evaluation of both halves of guidance (batch 2).   SPDX-License-Identifier: MIT
"""
import resource
import sys
import time
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

model, kind = sys.argv[1], getattr(torch, sys.argv[2] if len(sys.argv) > 2 else "bfloat16")
cells, steps = int(sys.argv[3] if len(sys.argv) > 3 else 512) // 8, int(sys.argv[4] if len(sys.argv) > 4 else 3)
unet = UNet2DConditionModel.from_pretrained(model + "/unet", torch_dtype=kind).eval().to(memory_format=torch.channels_last)
x = torch.randn(2, 4, cells, cells, dtype=kind).to(memory_format=torch.channels_last)
text = torch.randn(2, 77, unet.config.cross_attention_dim, dtype=kind)
with torch.inference_mode():
    for i in range(steps):
        start = time.perf_counter()
        unet(x, torch.tensor([981, 981]), text)
        print(f"step {i}: {time.perf_counter() - start:.3f} s", flush=True)
    del unet
    vae = AutoencoderKL.from_pretrained(model + "/vae", torch_dtype=kind).eval().to(memory_format=torch.channels_last)
    for i in range(2):
        start = time.perf_counter()
        vae.decode(x[:1])
        print(f"decode {i}: {time.perf_counter() - start:.2f} s", flush=True)
print(f"{torch.__version__}, {torch.get_num_threads()} threads, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
