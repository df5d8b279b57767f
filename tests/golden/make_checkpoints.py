#!/usr/bin/env python3
"""Makes checkpoints/: tiny Stable Diffusion 1 and 2 pipelines in every packing, and the tensor lists of the full-size ones.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0 gguf==0.19.0
      v/bin/python tests/golden/make_checkpoints.py convert_diffusers_to_original_stable_diffusion.py
The argument is the script of that name in diffusers' repository (scripts/, commit 58eb52c): it writes the original layout.
Values are not random: every parameter is filled from a hash of "PART/diffusers' name" and the element, see fill(), so the
test knows them without reading another file. All networks have the four levels and two layers that the script knows.
  sd1/             diffusers folder: UNet f16; autoencoder bf16, with a variant's file name and the names of tensors of older
                   versions; text encoder f32 in shards, names as older versions, with position_ids
  sd1_q8.gguf      the same in the original layout, q8_0 where rows allow it
  sd2.safetensors  original layout, f16, with OpenCLIP's last layer and what else training leaves in such files
  *.names          the real models in the original layout: "module AxBxC" of every weight, "+b" where there is a bias too
SPDX-License-Identifier: MIT
"""
import glob
import importlib.util
import json
import os
import shutil
import sys
import numpy as np
import torch
import gguf
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

spec = importlib.util.spec_from_file_location("original", sys.argv[1])
original = importlib.util.module_from_spec(spec)
spec.loader.exec_module(original)
here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "checkpoints")
M = 0xFFFFFFFF


def fnv(text):
    h = 2166136261
    for b in text.encode():
        h = ((h ^ b) * 16777619) & M
    return h


def fill(name, shape):
    """uniform on [-1/2, 1/2), 24 bits"""
    x = (fnv(name) + np.arange(int(np.prod(shape)), dtype=np.uint64) * 0x9E3779B1) & M
    x ^= x >> 16
    x = x * 0x7FEB352D & M
    x ^= x >> 15
    x = x * 0x846CA68B & M
    x ^= x >> 16
    return torch.from_numpy((((x >> 8) * 2.0**-24) - 0.5).astype(np.float32).reshape(shape))


def nested(name):
    return name if name.startswith("text_model.") else "text_model." + name


DOWN = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
UP = ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3


def vae_net(channels, groups):
    return AutoencoderKL(block_out_channels=channels, norm_num_groups=groups, layers_per_block=2,
                         down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)


def tiny(sd2):
    """name -> network, filled"""
    width = 8 if sd2 else 32
    unet = UNet2DConditionModel(block_out_channels=(4, 4, 4, 8), norm_num_groups=4, layers_per_block=2, cross_attention_dim=width,
                                down_block_types=DOWN, up_block_types=UP, sample_size=16,
                                attention_head_dim=[1, 2, 2, 4] if sd2 else 2, use_linear_projection=sd2)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=64, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=23 if sd2 else 2,
                                        num_attention_heads=2, max_position_embeddings=8, hidden_act="gelu" if sd2 else "quick_gelu",
                                        bos_token_id=62, eos_token_id=63))
    parts = {"unet": unet, "vae": vae_net((4, 4, 4, 8), 4), "text_encoder": text}
    for part, net in parts.items():
        with torch.no_grad():
            for name, p in net.named_parameters():
                p.copy_(fill(part + "/" + (nested(name) if part == "text_encoder" else name), p.shape))
    return parts


def index(folder):
    rows = {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.42.1", "feature_extractor": [None, None],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    json.dump(rows, open(os.path.join(folder, "model_index.json"), "w"), indent=2)


def rename(path, new_name, extra={}):
    from safetensors.torch import load_file
    t = {new_name(k): v for k, v in load_file(path).items()}
    save_file({**t, **extra}, path, {"format": "pt"})


def ldm(parts):
    """what the script's main does"""
    unet = original.convert_unet_state_dict(parts["unet"].state_dict())
    vae = original.convert_vae_state_dict(parts["vae"].state_dict())
    text = {nested(k): v for k, v in parts["text_encoder"].state_dict().items() if not k.endswith("position_ids")}
    if "text_model.encoder.layers.22.layer_norm2.bias" in text:
        text = original.convert_text_enc_state_dict_v20({"transformer." + k: v for k, v in text.items()})
        text = {"cond_stage_model.model." + k: v for k, v in text.items()}
    else:
        text = {"cond_stage_model.transformer." + k: v for k, v in text.items()}
    # the script gives the autoencoder's biases two more dimensions; real files have none
    vae = {k: v.reshape(-1) if k.endswith(".bias") else v for k, v in vae.items()}
    return {**{"model.diffusion_model." + k: v for k, v in unet.items()}, **{"first_stage_model." + k: v for k, v in vae.items()}, **text}


def configs(parts):
    """our own metadata: shapes do not tell the heads of networks as small as these"""
    return {"imago." + part: json.dumps(net.config.to_dict() if part == "text_encoder" else dict(net.config), default=list)
            for part, net in parts.items()}


def contiguous(tensors, dtype):
    return {k: v.detach().to(dtype).contiguous().clone() if v.is_floating_point() else v for k, v in tensors.items()}


def write_gguf(path, tensors, notes):
    w = gguf.GGUFWriter(path, "stable-diffusion")
    for k, v in notes.items():
        w.add_string(k, v)
    for name, t in tensors.items():
        a = t.detach().float().numpy()
        if a.ndim == 2 and a.shape[1] % 32 == 0:
            w.add_tensor(name, gguf.quants.quantize(a, gguf.GGMLQuantizationType.Q8_0), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            w.add_tensor(name, a.astype(np.float16) if a.ndim > 1 else a)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def names_of_real(name, sd2):
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=1024 if sd2 else 768, attention_head_dim=[5, 10, 20, 20] if sd2 else 8, use_linear_projection=sd2)
        vae = vae_net((128, 256, 512, 512), 32)
        text = CLIPTextModel(CLIPTextConfig(hidden_size=1024 if sd2 else 768, intermediate_size=4096 if sd2 else 3072,
                                            num_hidden_layers=23 if sd2 else 12, num_attention_heads=16 if sd2 else 12, hidden_act="gelu" if sd2 else "quick_gelu"))
    shapes = {k: tuple(v.shape) for k, v in ldm({"unet": unet, "vae": vae, "text_encoder": text}).items()}
    if sd2:
        shapes.update({k.replace("resblocks.22", "resblocks.23"): s for k, s in shapes.items() if "resblocks.22" in k})
        shapes.update({"cond_stage_model.model.text_projection": (1024, 1024), "cond_stage_model.model.logit_scale": ()})
    with open(os.path.join(here, name), "w") as f:
        for k in sorted(shapes):
            if not k.endswith(".bias"):
                bias = "+b" if k.endswith(".weight") and k[:-6] + "bias" in shapes else ""
                f.write(f"{k} {'x'.join(map(str, shapes[k]))}{bias}\n")


def main():
    shutil.rmtree(here, ignore_errors=True)
    os.makedirs(here)
    parts = tiny(False)
    write_gguf(os.path.join(here, "sd1_q8.gguf"), ldm(parts), configs(parts))
    folder = os.path.join(here, "sd1")
    parts["unet"].half().save_pretrained(os.path.join(folder, "unet"))
    parts["vae"].bfloat16().save_pretrained(os.path.join(folder, "vae"), variant="fp16")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(k):
        for new, name in old.items():
            k = k.replace(f"attentions.0.{new}.", f"attentions.0.{name}.")
        return k
    rename(os.path.join(folder, "vae", "diffusion_pytorch_model.fp16.safetensors"), older)
    parts["text_encoder"].save_pretrained(os.path.join(folder, "text_encoder"), max_shard_size="40KB")
    for f in sorted(glob.glob(os.path.join(folder, "text_encoder", "*.safetensors"))):
        rename(f, nested, {"text_model.embeddings.position_ids": torch.arange(8)[None]} if "00001" in f else {})
    path = os.path.join(folder, "text_encoder", "model.safetensors.index.json")
    table = json.load(open(path))
    table["weight_map"] = {nested(k): f for k, f in table["weight_map"].items()}
    first = sorted(table["weight_map"].values())[0]
    table["weight_map"]["text_model.embeddings.position_ids"] = first
    json.dump(table, open(path, "w"), indent=1)
    PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1).save_pretrained(os.path.join(folder, "scheduler"))
    index(folder)

    parts = tiny(True)
    single = ldm(parts)
    single.update({k.replace("resblocks.22", "resblocks.23"): torch.zeros_like(v) for k, v in single.items() if "resblocks.22" in k})
    single.update({"cond_stage_model.model.text_projection": torch.zeros(8, 8), "cond_stage_model.model.logit_scale": torch.tensor(1.0),
                   "model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(1), "alphas_cumprod": torch.zeros(4),
                   "posterior_mean_coef1": torch.zeros(4), "first_stage_model.loss.logvar": torch.tensor(0.0)})
    save_file(contiguous(single, torch.float16), os.path.join(here, "sd2.safetensors"),
              {"modelspec.architecture": "stable-diffusion-v2-768-v", "modelspec.prediction_type": "v", **configs(parts)})
    names_of_real("sd15.names", False)
    names_of_real("sd21.names", True)
    for root, _, files in os.walk(here):
        for f in files:
            print(os.path.getsize(os.path.join(root, f)), os.path.relpath(os.path.join(root, f), here))


main()
