"""The step of bench_adapter.c in PyTorch with PEFT: Stable Diffusion 1.5's UNet with random weights in bf16, the adapter in f32, forward,
loss, backward, clip and AdamW.

    python tests/bench/bench_adapter_torch.py lora|oft|oft_neumann|boft [--side px] [--steps n] [--threads n] [--checkpointing]

torch 2.13, diffusers 0.42, peft 0.21
SPDX-License-Identifier: MIT"""
import argparse
import resource
import time

import peft
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel

a = argparse.ArgumentParser()
a.add_argument("adapter", choices=["lora", "oft", "oft_neumann", "boft"])
a.add_argument("--side", type=int, default=512)
a.add_argument("--steps", type=int, default=3)
a.add_argument("--threads", type=int, default=2)
a.add_argument("--checkpointing", action="store_true")
a = a.parse_args()
torch.set_num_threads(a.threads)

targets = ["to_q", "to_k", "to_v", "to_out.0"]
if a.adapter == "lora":
    config = peft.LoraConfig(r=8, lora_alpha=8, target_modules=targets)
elif a.adapter == "boft":
    config = peft.BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=1, target_modules=targets)
else:
    config = peft.OFTConfig(r=0, oft_block_size=32, use_cayley_neumann=a.adapter == "oft_neumann", target_modules=targets)

unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768).to(torch.bfloat16)
unet.requires_grad_(False)
if a.checkpointing:
    unet.enable_gradient_checkpointing()
unet = peft.get_peft_model(unet, config).train()
weights = [p for p in unet.parameters() if p.requires_grad]
for p in weights:
    p.data = p.data.float()
adam = torch.optim.AdamW(weights, lr=1e-4)
x, v = torch.randn(1, 4, a.side // 8, a.side // 8), torch.randn(1, 4, a.side // 8, a.side // 8)
context, t = torch.randn(1, 77, 768, dtype=torch.bfloat16), torch.tensor([500])
best = busy = 1e30
for _ in range(a.steps):
    start, cpu = time.perf_counter(), time.process_time()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.mse_loss(unet(x.to(torch.bfloat16), t, context).sample.float(), v)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    adam.step()
    adam.zero_grad()
    best, busy = min(best, time.perf_counter() - start), min(busy, time.process_time() - cpu)
print(a.adapter, a.side, sum(p.numel() for p in weights), "numbers, torch", torch.__version__, "peft", peft.__version__)
print(f"step {best:.2f} s, processor {busy:.2f} s; peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6:.0f} MB")
