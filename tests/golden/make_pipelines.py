#!/usr/bin/env python3
"""Makes pipelines/: whole tiny Stable Diffusion pipelines with random weights (sd1: epsilon; sd2: v prediction, zero terminal SNR;
inpaint: 9 channels), and pipelines.safetensors: what diffusers makes of them, every sampler, image to image, inpainting.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 transformers==5.24.0 safetensors==0.8.0 pillow
      v/bin/python tests/golden/make_pipelines.py
Per run: NAME.latent [N, H, W, C] f32 before decoding, NAME.image [N, H, W, 3] u8. The calls on imago's side are the table in
tests/test_generate.c. Pictures for image to image are init.png and mask.png.   SPDX-License-Identifier: MIT
"""
import json
import os
import numpy as np
import torch
import diffusers as d
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "pipelines")
os.makedirs(here, exist_ok=True)
out = {}


def tokenizer():
    """Bytes and bytes at the end of a word, without merges but for a few."""
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    cs, n = bs[:], 0
    for b in range(256):
        if b not in bs:
            bs.append(b), cs.append(256 + n)
            n += 1
    chars = [chr(c) for c in cs]
    merges = [("f", "o"), ("fo", "x</w>"), ("r", "e"), ("re", "d</w>"), ("a", "t</w>"), ("i", "n")]
    words = chars + [c + "</w>" for c in chars] + ["".join(m) for m in merges] + ["<|startoftext|>", "<|endoftext|>"]
    os.makedirs(f"{here}/vocabulary", exist_ok=True)
    json.dump({w: i for i, w in enumerate(words)}, open(f"{here}/vocabulary/vocab.json", "w"), ensure_ascii=False)
    open(f"{here}/vocabulary/merges.txt", "w").write("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    t = CLIPTokenizer.from_pretrained(f"{here}/vocabulary")
    t.model_max_length = 77
    return t, len(words)


tok, vocab = tokenizer()


def parts(in_channels=4, linear=False):
    torch.manual_seed(5 if linear else in_channels)
    unet = d.UNet2DConditionModel(sample_size=8, in_channels=in_channels, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=24,
                                  attention_head_dim=[2, 2] if linear else 2, use_linear_projection=linear,
                                  down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"))
    vae = d.AutoencoderKL(block_out_channels=(4, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4, sample_size=64,
                          down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=vocab, hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=77,
                                        hidden_act="gelu" if linear else "quick_gelu", bos_token_id=vocab - 2, eos_token_id=vocab - 1, pad_token_id=0 if linear else vocab - 1))
    for m in (unet, vae, text):
        m.half().float()  # the values that the files hold
    with torch.no_grad():
        unet.conv_out.weight.mul_(4)  # so that the prediction matters
    return dict(unet=unet.eval(), vae=vae.eval(), text_encoder=text.eval(), tokenizer=tok, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


base = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000)
sd1 = d.StableDiffusionPipeline(**parts(), scheduler=d.DDIMScheduler(**base, clip_sample=False, set_alpha_to_one=False, steps_offset=1))
sd2 = d.StableDiffusionPipeline(**parts(linear=True), scheduler=d.DDIMScheduler(**base, clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction",
                                                                               rescale_betas_zero_snr=True, timestep_spacing="trailing"))
inpaint = d.StableDiffusionInpaintPipeline(**parts(9), scheduler=d.DDIMScheduler(**base, clip_sample=False, set_alpha_to_one=False, steps_offset=1))
for name, pipe in dict(sd1=sd1, sd2=sd2, inpaint=inpaint).items():
    for m in (pipe.unet, pipe.vae, pipe.text_encoder):
        m.half()
    pipe.save_pretrained(f"{here}/{name}")
    for m in (pipe.unet, pipe.vae, pipe.text_encoder):
        m.float()

rng = np.random.default_rng(3)
y, x = np.mgrid[0:64, 0:48] / 64.0
picture = np.stack([255 * x, 255 * y, 128 + 100 * np.sin(9 * x + 5 * y)], -1).clip(0, 255).astype(np.uint8)
mask = np.zeros((64, 48), np.uint8)
mask[16:52, 8:36] = 255
Image.fromarray(picture).save(f"{here}/init.png")
Image.fromarray(mask).save(f"{here}/mask.png")
PROMPT, NEGATIVE = "a red fox in the snow", "a cat"


def run(name, pipe, seeds=(7,), **kw):
    kw = dict(dict(height=64, width=48, num_inference_steps=10, guidance_scale=5.0, negative_prompt=[NEGATIVE] * len(seeds)), **kw)
    gens = lambda: [torch.Generator("cpu").manual_seed(s) for s in seeds]
    one = lambda: gens() if len(seeds) > 1 else gens()[0]
    latent = pipe(prompt=[PROMPT] * len(seeds), generator=one(), output_type="latent", **kw).images
    image = pipe(prompt=[PROMPT] * len(seeds), generator=one(), output_type="np", **kw).images
    out[name + ".latent"] = latent.permute(0, 2, 3, 1).float().contiguous()
    out[name + ".image"] = torch.from_numpy((image * 255).round().astype(np.uint8)).contiguous()


def with_scheduler(pipe, cls, **kw):
    return d.StableDiffusionPipeline(**{k: v for k, v in pipe.components.items() if k not in ("scheduler", "image_encoder")}, requires_safety_checker=False,
                                     scheduler=cls.from_config(pipe.scheduler.config, **kw))


schedulers = dict(ddim=(d.DDIMScheduler, {}), euler=(d.EulerDiscreteScheduler, {}), euler_a=(d.EulerAncestralDiscreteScheduler, {}), heun=(d.HeunDiscreteScheduler, {}),
                  dpmpp_2m=(d.DPMSolverMultistepScheduler, {}), dpmpp_2m_karras=(d.DPMSolverMultistepScheduler, dict(use_karras_sigmas=True)),
                  dpmpp_2m_sde=(d.DPMSolverMultistepScheduler, dict(algorithm_type="sde-dpmsolver++")), unipc=(d.UniPCMultistepScheduler, {}), lcm=(d.LCMScheduler, {}))
for name, (cls, kw) in schedulers.items():
    run("sd1." + name, with_scheduler(sd1, cls, **kw))
run("sd2.ddim", sd2)
run("sd2.rescale", sd2, guidance_rescale=0.7)
run("sd1.batch", sd1, seeds=(7, 8))
run("sd1.eta", sd1, eta=0.5)
run("sd1.unguided", sd1, guidance_scale=1.0)
rest = {k: v for k, v in sd1.components.items() if k != "image_encoder"}
images = dict(image=Image.fromarray(picture))
init = d.StableDiffusionImg2ImgPipeline(**rest, requires_safety_checker=False)
size = dict(height=64, width=48)


def run_image(name, pipe, **kw):
    kw = dict(dict(num_inference_steps=10, guidance_scale=5.0, negative_prompt=NEGATIVE), **kw)
    g = lambda: torch.Generator("cpu").manual_seed(7)
    out[name + ".latent"] = pipe(prompt=PROMPT, generator=g(), output_type="latent", **kw).images.permute(0, 2, 3, 1).float().contiguous()
    image = pipe(prompt=PROMPT, generator=g(), output_type="np", **kw).images
    out[name + ".image"] = torch.from_numpy((image * 255).round().astype(np.uint8)).contiguous()


run_image("sd1.img2img", init, strength=0.6, **images)
paint = dict(image=Image.fromarray(picture), mask_image=Image.fromarray(mask), **size)
run_image("sd1.inpaint", d.StableDiffusionInpaintPipeline(**rest, requires_safety_checker=False), strength=1.0, **paint)
run_image("sd1.inpaint_part", d.StableDiffusionInpaintPipeline(**rest, requires_safety_checker=False), strength=0.7, **paint)
run_image("inpaint.full", inpaint, strength=1.0, **paint)
save_file(out, os.path.join(os.path.dirname(here), "pipelines.safetensors"))
print(len(out), "tensors")
