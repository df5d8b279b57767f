#!/usr/bin/env python3
"""Makes families.safetensors: UNets, autoencoders and text encoders of odd shapes, by diffusers and transformers.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0
      v/bin/python tests/golden/make_families.py
Weights and inputs are not stored: both sides fill them from a counter hash of (name, element), see mix() and fill();
images and latents in NHWC order. Networks compute in f64. Per case:
  NAME.out    the output, NHWC                NAME.bf16   [1] worst error of PyTorch in bf16 / largest output
  NAME.names  [1] FNV-1a of the lines "name AxBxC\\n" of all parameters, sorted by name
  NAME.grads  [parameters sorted by name, 9] gradient of sum(out * projection): eight elements at mix(name, 0..7) % count,
              and the 2-norm              NAME.extra_grad  all of the learned token rows' gradient
  size.NAME   [2] number of parameters and the FNV-1a of the lines, of networks at full size
SPDX-License-Identifier: MIT
"""
import os
import numpy as np
import torch
import diffusers
import safetensors
import transformers
from safetensors.torch import save_file

M = 0xFFFFFFFF
out = {}


def fnv(text):
    h = 2166136261
    for b in text.encode():
        h = ((h ^ b) * 16777619) & M
    return h


def mix(name, n):
    x = (fnv(name) + np.arange(n, dtype=np.uint64) * 0x9E3779B1) & M
    x ^= x >> 16
    x = x * 0x7FEB352D & M
    x ^= x >> 15
    x = x * 0x846CA68B & M
    return x ^ (x >> 16)


def fill(name, shape, scale, offset=0.0):
    u = (mix(name, int(np.prod(shape))) >> 8) * 2.0**-24
    return torch.from_numpy(((2 * u - 1) * scale + offset).astype(np.float32).reshape(shape)).double()


def signal(name, *shape):
    return fill(name, shape, 3**0.5)


def weight(name, shape):
    if len(shape) > 1:
        return fill(name, shape, (3 / np.prod(shape[1:]))**0.5)
    return fill(name, shape, 0.2, 1.0) if name.endswith(".weight") else fill(name, shape, 0.1)


def full_name(net, name):
    return "text_model." + name if isinstance(net, transformers.CLIPTextModel) and not name.startswith("text_model.") else name


def named(net):
    return sorted((full_name(net, n), p) for n, p in net.named_parameters())


def lines(net, rows=None):
    size = lambda n, p: [rows] + list(p.shape[1:]) if rows and n.endswith("token_embedding.weight") else p.shape
    return fnv("".join(f"{n} {'x'.join(map(str, size(n, p)))}\n" for n, p in named(net)))


nchw = lambda v: v.permute(0, 3, 1, 2).contiguous()
nhwc = lambda v: v.permute(0, 2, 3, 1).contiguous() if v.ndim == 4 else v.contiguous()


def samples(name, grad):
    g = grad.flatten()
    at = torch.from_numpy((mix(name, 8) % g.numel()).astype(np.int64))
    return torch.cat([g[at], g.norm()[None]])


def case(name, net, call, grads=False, rows=None):
    """call(net, cast) gives the output; rows: of the token table that are the network's own, the rest are learned ones."""
    net.eval().double()
    with torch.no_grad():
        for n, p in named(net):
            if rows and n.endswith("token_embedding.weight"):
                p.copy_(torch.cat([weight(n, (rows, p.shape[1])), signal("extra", p.shape[0] - rows, p.shape[1])]))
            else:
                p.copy_(weight(n, p.shape))
    y = nhwc(call(net, lambda v: v))
    if grads:
        (y * signal("projection", *y.shape)).sum().backward()
        grad = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named(net)}
        if rows:
            token = "text_model.embeddings.token_embedding.weight"
            out[name + ".extra_grad"] = grad[token][rows:]
            grad[token] = grad[token][:rows]
        out[name + ".grads"] = torch.stack([samples(n, g) for n, g in grad.items()])
    with torch.no_grad():
        half = nhwc(call(net.bfloat16(), lambda v: v.bfloat16())).double()
    y = y.detach()
    out[name + ".out"] = y
    out[name + ".bf16"] = ((half - y).abs().max() / y.abs().max())[None]
    out[name + ".names"] = torch.tensor([lines(net, rows)])
    print(name, tuple(y.shape), "std %.3f" % y.std(), "bf16 %.2g" % out[name + ".bf16"], len(named(net)))


def unet(name, n, h, w, tokens, grads=False, **config):
    net = diffusers.UNet2DConditionModel(**config)
    x, context = nchw(signal("x", n, h, w, net.config.in_channels)), signal("context", n, tokens, net.config.cross_attention_dim)
    width = net.config.time_cond_proj_dim
    t = torch.tensor([13.0, 871.0])[:n]
    call = lambda m, c: m(c(x), t, c(context), timestep_cond=c(signal("guidance", n, width)) if width else None).sample
    case(name, net, call, grads)


def types(attention):
    return dict(down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention],
                up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in attention[::-1]])


unet("unet_sd1", 2, 12, 10, 7, True, block_out_channels=(16, 24, 32, 32), layers_per_block=2, attention_head_dim=2,
     cross_attention_dim=20, norm_num_groups=4, **types((1, 1, 1, 0)))
unet("unet_sd2", 1, 7, 5, 9, True, block_out_channels=(8, 16, 32), layers_per_block=1, attention_head_dim=(1, 2, 4),
     cross_attention_dim=12, norm_num_groups=4, use_linear_projection=True, **types((1, 1, 0)))
unet("unet_gap", 2, 9, 6, 5, block_out_channels=(12, 24, 24), layers_per_block=2, attention_head_dim=(3, 2, 1),
     cross_attention_dim=8, norm_num_groups=3, transformer_layers_per_block=(2, 1, 3), **types((1, 0, 1)))
unet("unet_lcm", 2, 3, 4, 4, True, in_channels=9, block_out_channels=(8,), layers_per_block=1, attention_head_dim=2,
     cross_attention_dim=8, norm_num_groups=2, norm_eps=1e-6, flip_sin_to_cos=False, freq_shift=1, time_cond_proj_dim=12,
     **types((1,)))
unet("unet_deep", 1, 33, 32, 3, block_out_channels=(4, 4, 8, 8, 8, 8), layers_per_block=1, attention_head_dim=1,
     cross_attention_dim=8, norm_num_groups=2, use_linear_projection=True, **types((0, 0, 1, 0, 0, 1)))


def kl(name, n, h, w, grads=False, **config):
    levels = len(config["block_out_channels"])
    make = lambda: diffusers.AutoencoderKL(down_block_types=["DownEncoderBlock2D"] * levels, up_block_types=["UpDecoderBlock2D"] * levels, **config)
    f = 2**(levels - 1)

    def moments(m, c):
        y = m.encoder(c(nchw(signal("image", n, h * f, w * f, 3))))
        return m.quant_conv(y) if m.quant_conv is not None else y

    case(name + "_encode", make(), moments, grads)
    case(name + "_decode", make(), lambda m, c: m.decode(c(nchw(signal("latent", n, h, w, config["latent_channels"])))).sample, grads)


kl("kl", 1, 5, 3, True, block_out_channels=(8, 16, 16), layers_per_block=1, latent_channels=3, norm_num_groups=4)
kl("kl_plain", 2, 3, 7, block_out_channels=(8, 12), layers_per_block=2, latent_channels=4, norm_num_groups=2,
   use_quant_conv=False, use_post_quant_conv=False, mid_block_add_attention=False)

tiny = lambda: diffusers.AutoencoderTiny(encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
                                         num_encoder_blocks=(1, 2, 1), num_decoder_blocks=(2, 1, 1), latent_channels=5)
case("tiny_encode", tiny(), lambda m, c: m.encode(c(nchw(signal("image", 2, 12, 20, 3)))).latents, True)
case("tiny_decode", tiny(), lambda m, c: m.decode(c(nchw(signal("latent", 2, 3, 5, 5)))).sample, True)


def clip_net(**config):
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**config))


def clip(name, n, tokens, skip, grads=False, extra=0, **config):
    vocab = config.pop("vocab_size")
    net = clip_net(vocab_size=vocab + extra, **config)
    ids = torch.from_numpy((mix("ids", n * tokens) % (vocab + extra)).astype(np.int64)).reshape(n, tokens)
    body = net.text_model if hasattr(net, "text_model") else net
    call = lambda m, c: body.final_layer_norm(m(ids, output_hidden_states=True).hidden_states[-1 - skip])
    assert torch.equal(call(net, None), net(ids).last_hidden_state) == (skip == 0)
    case(name, net, call, grads, vocab if extra else None)


base = dict(vocab_size=50, hidden_size=32, intermediate_size=56, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=16)
clip("clip_quick", 2, 16, 0, True, hidden_act="quick_gelu", **base)
clip("clip_extra", 2, 11, 1, True, extra=9, hidden_act="quick_gelu", **base)
clip("clip_gelu", 1, 9, 2, hidden_act="gelu", **dict(base, num_hidden_layers=4, num_attention_heads=4, layer_norm_eps=1e-6))


def size(name, make):
    with torch.device("meta"):
        net = make()
    out["size." + name] = torch.tensor([len(named(net)), lines(net)])
    print("size", name, out["size." + name].tolist())


size("sd1_unet", lambda: diffusers.UNet2DConditionModel(cross_attention_dim=768))
size("sd2_unet", lambda: diffusers.UNet2DConditionModel(cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True))
size("vae", lambda: diffusers.AutoencoderKL(
    block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4))
size("taesd", lambda: diffusers.AutoencoderTiny())
size("clip_l", lambda: clip_net(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))
size("clip_h", lambda: clip_net(vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16, hidden_act="gelu"))

here = os.path.dirname(os.path.abspath(__file__))
keep = lambda v: v.contiguous() if v.dtype == torch.int64 else v.float().contiguous()
save_file({k: keep(v) for k, v in out.items()}, os.path.join(here, "families.safetensors"),
          metadata={"made_by": "tests/golden/make_families.py", "torch": torch.__version__, "diffusers": diffusers.__version__,
                    "transformers": transformers.__version__, "safetensors": safetensors.__version__})
