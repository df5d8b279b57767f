#!/usr/bin/env python3
"""Makes sampler.safetensors: trajectories of diffusers' schedulers on a fixed nonlinear "network", in double.

Run:  python3 -m venv v && v/bin/pip install torch==2.13.0 diffusers==0.42.1 safetensors==0.8.0 numpy==2.4.6
      v/bin/python tests/golden/make_sampler.py
The schedulers compute in float32. Here their source is loaded a second time with float32 replaced by float64, so that
the comparison is sharp. The float32 originals are run as well and their end is kept, unless it is further than 1e-4 from
the double's: those are printed. Most are due to a time that float32 puts just below a whole number and diffusers cuts.
The network is tanh(A x + cos(i t / 1000)), i = 1..8. Noise row 0 is the initial one; row k + 1 the k-th draw.
Latents are recorded variance-preserving: x / sqrt(1 + sigma^2) of the k-diffusion schedulers.
Holds: A, noise, x0 (the picture of strength < 1); abar/KIND/zsnr; run/NAME [calls, 1 + 8]: the time told to the network, x
after it; end/NAME the float32 original's last x; invert/NAME the same upwards; times/NAME the float32 timesteps.   SPDX-License-Identifier: MIT
"""
import importlib
import inspect
import os
import types
import diffusers
import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

assert (diffusers.__version__, torch.__version__[:6], np.__version__) == ("0.42.1", "2.13.0", "2.4.6")
D = 8
SD = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
MODULES = {"DDIMScheduler": "ddim", "DDIMInverseScheduler": "ddim_inverse", "EulerDiscreteScheduler": "euler_discrete",
           "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete", "HeunDiscreteScheduler": "heun_discrete",
           "DPMSolverMultistepScheduler": "dpmsolver_multistep", "UniPCMultistepScheduler": "unipc_multistep",
           "LCMScheduler": "lcm"}
CLASS = {"ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler", "euler_a": "EulerAncestralDiscreteScheduler",
         "heun": "HeunDiscreteScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler",
         "dpmpp_2m_sde": "DPMSolverMultistepScheduler", "unipc": "UniPCMultistepScheduler", "lcm": "LCMScheduler"}
KDIFF = ("euler", "euler_a", "heun")
GRIDDED = ("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc")
STOCHASTIC = ("euler_a", "dpmpp_2m_sde", "lcm")

rng = torch.Generator().manual_seed(7)
A = torch.randn(D, D, generator=rng, dtype=torch.float64) * 0.4
NOISE = torch.randn(12, D, generator=rng, dtype=torch.float64)
X0 = torch.randn(D, generator=rng, dtype=torch.float64) * 0.7


def load(stem, double):
    module = importlib.import_module("diffusers.schedulers.scheduling_" + stem)
    if not double:
        return module
    source = inspect.getsource(module).replace("torch.float32", "torch.float64").replace("np.float32", "np.float64")
    copy = types.ModuleType(module.__name__ + "_double")
    copy.__package__, copy.__file__ = module.__package__, module.__file__
    exec(compile(source, module.__file__, "exec"), copy.__dict__)
    return copy


LOADED = {(s, d): load(s, d) for s in MODULES.values() for d in (True, False)}


def network(x, t):
    i = torch.arange(1, D + 1, dtype=torch.float64)
    return torch.tanh(A @ x.double() + torch.cos(i * float(t) / 1000))


def make(name, double, prediction, spacing, grid, zsnr, one, beta):
    module = LOADED[MODULES[CLASS[name]], double]
    config = dict(SD, prediction_type=prediction, timestep_spacing=spacing, beta_schedule=beta)
    if beta == "linear":
        config.update(beta_start=0.0001, beta_end=0.02)
    if zsnr:
        config["rescale_betas_zero_snr"] = True
    if name in ("ddim", "lcm"):
        config.update(set_alpha_to_one=one, clip_sample=False)
    if name == "dpmpp_2m_sde":
        config["algorithm_type"] = "sde-dpmsolver++"
    if grid != "model":
        config["use_%s_sigmas" % grid] = True
    return getattr(module, CLASS[name])(**config), module


def run(name, double, prediction, spacing, grid, steps, strength, eta, zsnr, one, beta):
    """List of (t, x after) of each model call."""
    dtype = torch.float64 if double else torch.float32
    torch.set_default_dtype(dtype)
    borrowed = name == "euler_a" and grid != "model"  # that class has no grids: give it Euler's
    s, module = make(name, double, prediction, spacing, "model" if borrowed else grid, zsnr, one, beta)
    draws = iter(NOISE[1:])
    module.randn_tensor = lambda shape, **_: next(draws).to(dtype).reshape(shape)
    if name == "lcm":
        s.set_timesteps(steps, strength=strength)
    else:
        s.set_timesteps(steps)
    if borrowed:
        other = make("euler", double, prediction, spacing, grid, zsnr, one, beta)[0]
        other.set_timesteps(steps)
        s.timesteps, s.sigmas = other.timesteps, other.sigmas
    # pipeline_stable_diffusion_img2img.get_timesteps; LCM's strength went into its timesteps
    start = max(steps - min(int(steps * strength), steps), 0) if name != "lcm" else 0
    times = s.timesteps[start * s.order:]
    if hasattr(s, "set_begin_index"):  # also at 0: else a first time that comes twice would skip a step
        s.set_begin_index(start * s.order)
    if strength < 1:
        x = s.add_noise(X0.to(dtype)[None], NOISE[:1].to(dtype), times[:1])
    else:
        x = NOISE[:1].to(dtype) * s.init_noise_sigma
    rows = []
    for t in times:
        inner = s.scale_model_input(x, t)
        output = network(inner[0], t).to(dtype)[None]
        extra = {"eta": eta} if name == "ddim" else {}
        x = s.step(output, t, x, **extra).prev_sample
        vp = x[0].double()
        if name in KDIFF:
            vp = vp / (1 + s.sigmas[s.step_index].double() ** 2) ** 0.5
        rows.append(torch.cat([torch.tensor([float(t)], dtype=torch.float64), vp]))
    return torch.stack(rows)


def invert(double, prediction, spacing, steps, strength, one, offset):
    dtype = torch.float64 if double else torch.float32
    torch.set_default_dtype(dtype)
    config = dict(SD, prediction_type=prediction, timestep_spacing=spacing, set_alpha_to_one=one, clip_sample=False)
    config["steps_offset"] = offset
    s = LOADED["ddim_inverse", double].DDIMInverseScheduler(**config)
    s.set_timesteps(steps)
    start = max(steps - min(int(steps * strength), steps), 0)
    times = s.timesteps[:-start] if start else s.timesteps
    x, rows = X0.to(dtype)[None], []
    for t in times:
        x = s.step(network(x[0], t).to(dtype)[None], t, x).prev_sample
        rows.append(torch.cat([torch.tensor([float(t)], dtype=torch.float64), x[0].double()]))
    return torch.stack(rows)


def cases():
    spacings, grids = ("leading", "trailing", "linspace"), ("model", "karras", "exponential")
    for name in CLASS:
        own = "leading" if name in ("ddim", "lcm") else "linspace"
        n = 8 if name == "lcm" else 10
        base = dict(prediction="v_prediction", spacing=own, grid="model", steps=n, strength=1.0, eta=0.0, zsnr=0, one=0,
                    beta="scaled_linear")
        for prediction in ("epsilon", "v_prediction"):
            for spacing in spacings if name != "lcm" else ("leading",):
                for grid in grids if name in GRIDDED + ("euler_a",) else ("model",):
                    yield name, dict(base, prediction=prediction, spacing=spacing, grid=grid)
        for steps in (1, 2, 3):
            for spacing in (own, "trailing") if name != "lcm" else (own,):
                yield name, dict(base, steps=steps, spacing=spacing, prediction="epsilon")
        for strength in (0.35, 0.8):
            yield name, dict(base, strength=strength)
        yield name, dict(base, steps=7 if name == "lcm" else 11, beta="linear", prediction="epsilon")
        yield name, dict(base, beta="squaredcos_cap_v2")
        yield name, dict(base, prediction="sample") if name != "euler_a" else dict(base, steps=9)
        if name != "heun":
            yield name, dict(base, spacing="trailing" if name != "lcm" else own, zsnr=1)
        if name in GRIDDED:
            yield name, dict(base, grid="karras", strength=0.6)
            yield name, dict(base, grid="karras", beta="squaredcos_cap_v2")
            if name != "heun":
                yield name, dict(base, spacing="trailing", grid="karras", zsnr=1)
        if name == "ddim":
            yield name, dict(base, one=1)
            yield name, dict(base, one=1, eta=1.0, zsnr=1, spacing="trailing")
            for spacing in spacings:
                yield name, dict(base, eta=0.5, spacing=spacing, prediction="epsilon")
            yield name, dict(base, eta=1.0, strength=0.5)


out = {"A": A, "noise": NOISE, "x0": X0}
worst, odd = 0.0, []
for name, c in cases():
    key = "/".join([name, c["prediction"], c["spacing"], c["grid"], c["beta"], str(c["steps"]), "%g" % c["strength"],
                    "%g" % c["eta"], str(c["zsnr"]), str(c["one"])])
    double, single = run(name, True, **c), run(name, False, **c)
    assert torch.isfinite(double).all(), key
    gap = (double[-1, 1:] - single[-1, 1:]).abs().max().item()
    shift = (double[:, 0] - single[:, 0]).abs().max().item()
    if gap > 1e-4 or shift > 1e-2:
        odd.append((key, gap, shift))
    else:
        worst = max(worst, gap)
        out["end/" + key] = single[-1, 1:].float()
    assert "run/" + key not in out, key
    out["run/" + key] = double
for prediction in ("epsilon", "v_prediction"):
    for spacing in ("leading", "trailing"):
        for one in (0, 1):
            for strength in (1.0, 0.8):
                key = "invert/%s/%s/10/%g/%d/1" % (prediction, spacing, strength, one)
                out[key] = invert(True, prediction, spacing, 10, strength, bool(one), 1)
out["invert/v_prediction/leading/50/0.8/0/0"] = invert(True, "v_prediction", "leading", 50, 0.8, False, 0)
for beta in ("linear", "scaled_linear", "squaredcos_cap_v2"):
    for zsnr in (0, 1):
        torch.set_default_dtype(torch.float64)
        s, _ = make("ddim", True, "v_prediction", "leading", "model", zsnr, False, beta)
        out["abar/%s/%d" % (beta, zsnr)] = s.alphas_cumprod[[0, 1, 2, 10, 500, 990, 997, 998, 999]].clone()
for name in ("ddim", "euler", "dpmpp_2m", "unipc", "lcm"):
    for steps in (4, 6, 7, 13, 25, 30, 48):  # 48: numpy.arange falls beside a half
        for spacing in ("leading", "trailing", "linspace") if name != "lcm" else ("leading",):
            for grid in ("model", "karras", "exponential") if name in GRIDDED else ("model",):
                torch.set_default_dtype(torch.float32)  # the originals: this is what people get
                s = make(name, False, "epsilon", spacing, grid, 0, False, "scaled_linear")[0]
                s.set_timesteps(steps)
                out["times/%s/%s/%s/%d" % (name, spacing, grid, steps)] = s.timesteps.float()
here = os.path.dirname(os.path.abspath(__file__))
save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(here, "sampler.safetensors"),
          metadata={"torch": torch.__version__, "diffusers": diffusers.__version__, "safetensors": safetensors.__version__})
print(len(out), "tensors; float32 originals within %.1e of their doubles, but for %d:" % (worst, len(odd)))
for key, gap, shift in odd:
    print(key, "x differs by %.1e, times by %g" % (gap, shift))
