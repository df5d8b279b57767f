"""The networks of bench_train.c in PyTorch: seconds and TFLOP/s of forward, loss, backward and AdamW, bf16 autocast on f32
weights, channels last. With --cpu-time the processor's time is counted instead of the clock's: comparable on a busy machine, with
one thread.

    python tests/bench/bench_train_torch.py vae|unet [--batch n] [--steps n] [--threads n] [--cpu-time] [--device cuda] [--compile]

torch 2.13, diffusers 0.35, transformers 4.56
SPDX-License-Identifier: MIT"""
import argparse
import time

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

a = argparse.ArgumentParser()
a.add_argument("what", choices=["vae", "unet"])
a.add_argument("--batch", type=int, default=16)
a.add_argument("--steps", type=int, default=5)
a.add_argument("--threads", type=int, default=2)
a.add_argument("--cpu-time", action="store_true")
a.add_argument("--device", default="cpu")
a.add_argument("--compile", action="store_true", help="torch.compile the networks")
a = a.parse_args()
torch.set_num_threads(a.threads)
timer = time.process_time if a.cpu_time else time.perf_counter
torch.set_default_device(a.device)


def clock():
    if a.device == "cuda":
        torch.cuda.synchronize()
    return timer()


n = a.batch

if a.what == "vae":
    w = (64,) * 4
    net = AutoencoderTiny(encoder_block_out_channels=w, decoder_block_out_channels=w, num_encoder_blocks=(0, 1, 3, 3),
                          num_decoder_blocks=(3, 3, 1, 0), latent_channels=12)
    parts = [net]
    x = torch.rand(n, 3, 128, 128).contiguous(memory_format=torch.channels_last) * 2 - 1

    def loss():
        z = net.encode(x).latents.float()
        y = net.decode(z + 0.1 * torch.randn_like(z)).sample.float()
        d = (y - x)
        return (d.abs().mean() + (d[:, :, 1:] - d[:, :, :-1]).abs().mean() + (d[..., 1:] - d[..., :-1]).abs().mean()
                + 0.1 * (z.mean((0, 2, 3)).square() + (z.std((0, 2, 3)) - 1).square()).mean())
else:
    unet = UNet2DConditionModel(sample_size=16, in_channels=12, out_channels=12, layers_per_block=2, block_out_channels=(128, 192, 192),
                                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=256,
                                attention_head_dim=(2, 3, 3), norm_num_groups=16, use_linear_projection=True)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=4096, hidden_size=256, intermediate_size=1024, num_hidden_layers=3,
                                        num_attention_heads=4, max_position_embeddings=64))
    parts = [unet, text]
    x0, ids, t = torch.randn(n, 12, 16, 16), torch.randint(0, 4095, (n, 64)), torch.randint(0, 1000, (n,))
    x0 = x0.contiguous(memory_format=torch.channels_last)

    def loss():
        noise = torch.randn_like(x0)
        v = unet(0.7 * x0 + 0.7 * noise, t, text(ids)[0]).sample.float()
        return F.mse_loss(v, 0.7 * noise - 0.7 * x0)

for p in parts:
    p.train().to(memory_format=torch.channels_last)
if a.compile:
    for p in parts:
        p.compile()
    if a.what == "vae":
        net.encoder.compile(), net.decoder.compile()
weights = [w for p in parts for w in p.parameters()]
adam = torch.optim.AdamW(weights, lr=1e-4, fused=True)
print(a.what, "batch", n, sum(w.numel() for w in weights), "parameters, torch", torch.__version__)
best = update = 1e30
for _ in range(a.steps):
    start = clock()
    with torch.autocast(a.device, dtype=torch.bfloat16):
        value = loss()
    value.backward()
    middle = clock()
    torch.nn.utils.clip_grad_norm_(weights, 1.0)
    adam.step()
    adam.zero_grad()
    best, update = min(best, middle - start), min(update, clock() - middle)
print(f"step {best * 1e3:.1f} ms, {n / best:.1f} samples/s; update {update * 1e3:.1f} ms")
