#!/usr/bin/env python3
"""Makes a full-size Stable Diffusion with random weights, and diffusers' answers of its parts, for build/check_parts.

Run:   python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0
       v/bin/python tests/golden/make_fullsize.py {sd15|sd21} OUT [--dtype float16] [--size 64]
       build/check_parts OUT OUT/golden.safetensors cpu f32
Writes about 2 GB in f16; nothing of it is kept in the repository. golden.safetensors: inputs (NHWC), outputs in f32 of the weights as
they are stored, and the relative error that PyTorch itself shows in bf16 (tensor "NAME.bf16_error").   SPDX-License-Identifier: MIT
"""
import argparse
import copy
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

p = argparse.ArgumentParser()
p.add_argument("kind", choices=["sd15", "sd21"])
p.add_argument("out")
p.add_argument("--dtype", default="float16")
p.add_argument("--size", type=int, default=64, help="latent cells along a side")
p.add_argument("--tokenizer", help="a diffusers tokenizer folder; without it the pipeline is saved without one")
a = p.parse_args()
torch.manual_seed(0)
sd2 = a.kind == "sd21"
unet = UNet2DConditionModel(sample_size=96 if sd2 else 64, cross_attention_dim=1024 if sd2 else 768, use_linear_projection=sd2,
                            attention_head_dim=[5, 10, 20, 20] if sd2 else 8)
vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, sample_size=512,
                    down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
cfg = (CLIPTextConfig(vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu",
                      bos_token_id=49406, eos_token_id=49407, pad_token_id=0)
       if sd2 else CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                                  hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407, pad_token_id=49407))
text = CLIPTextModel(cfg)
dtype = getattr(torch, a.dtype)
parts = {"unet": unet, "vae": vae, "text": text}
for m in parts.values():
    m.to(dtype).float().eval()  # the values that the file will hold

n = a.size
torch.manual_seed(1)
x, t = torch.randn(2, 4, n, n), torch.tensor([981, 500])
ids = torch.randint(0, 49406, (2, 77))
ids[:, 0], ids[:, 60:] = 49406, 49407
latent, image = torch.randn(1, 4, n, n), torch.rand(1, 3, 8 * n, 8 * n) * 2 - 1
context = torch.randn(2, 77, unet.config.cross_attention_dim)


def run(name, m, kind):
    f = lambda v: v.to(kind)
    with torch.no_grad():
        if name == "unet":
            return {"unet": m(f(x), t, f(context)).sample}
        if name == "text":
            return {"text": m(ids).last_hidden_state}
        return {"vae_encode": m.encode(f(image)).latent_dist.parameters, "vae_decode": m.decode(f(latent)).sample}


nhwc = lambda v: v.permute(0, 2, 3, 1).contiguous() if v.dim() == 4 else v.contiguous()
out = {"x": nhwc(x), "t": t.float(), "context": context, "ids": ids.to(torch.int32), "latent": nhwc(latent), "image": nhwc(image)}
for name, m in parts.items():
    exact = run(name, m, torch.float32)
    rough = run(name, copy.deepcopy(m).to(torch.bfloat16), torch.bfloat16)
    for k, v in exact.items():
        out[k] = nhwc(v.float())
        out[k + ".bf16_error"] = ((rough[k].float() - v).norm() / v.norm()).reshape(1)
for m in parts.values():
    m.to(dtype)
scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
                          prediction_type="v_prediction" if sd2 else "epsilon")
tokenizer = CLIPTokenizer.from_pretrained(a.tokenizer) if a.tokenizer else None
pipe = StableDiffusionPipeline(vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler, safety_checker=None,
                               feature_extractor=None, requires_safety_checker=False)
pipe.save_pretrained(a.out)
save_file(out, a.out + "/golden.safetensors")
