#!/usr/bin/env python3
"""Makes small.gguf (a tensor of every type we read) and gguf.safetensors (its values, by the gguf package).

Run:  python3 -m venv v && v/bin/pip install gguf==0.19.0 numpy==2.4.6 safetensors==0.8.0
      v/bin/python tests/golden/make_gguf.py
fold.weight is stored folded to rows of 32, with the shape it had in comfy.gguf.orig_shape.*, as ComfyUI-GGUF does.
The fuzzer takes small.gguf as its seed.   SPDX-License-Identifier: MIT
"""
import os
import gguf
import numpy as np
from safetensors.numpy import save_file

here = os.path.dirname(os.path.abspath(__file__))
rng = np.random.default_rng(2)
types = gguf.GGMLQuantizationType
values = {}
w = gguf.GGUFWriter(os.path.join(here, "small.gguf"), "sd1")
w.add_string("general.name", "caf\u00e9")
w.add_uint32("answer", 42)
w.add_float64("pi", 3.14159)
w.add_bool("yes", True)
w.add_array("words", ["a", "bc", ""])
w.add_array("comfy.gguf.orig_shape.fold.weight", [4, 2, 2, 4])


def add(name, x, kind, shape=None):
    x = x.astype(np.float32)
    q = gguf.quants.quantize(x, kind)
    w.add_tensor(name, q, raw_dtype=kind)
    values[name] = gguf.quants.dequantize(q, kind).reshape(shape or x.shape).astype(np.float32)


for kind in (types.Q8_0, types.Q4_0, types.Q4_1, types.Q5_0, types.Q5_1):
    add(kind.name.lower(), rng.normal(size=(3, 64)) * 0.3 + 0.1, kind)
add("f32", rng.normal(size=(2, 3, 5)), types.F32)
add("f16", rng.normal(size=(3, 5)), types.F16)
add("bf16", rng.normal(size=(7,)), types.BF16)
add("fold.weight", rng.normal(size=(2, 32)), types.Q8_0, (4, 2, 2, 4))
for name, t in (("i8", np.int8), ("i16", np.int16), ("i32", np.int32), ("i64", np.int64), ("f64", np.float64)):
    x = np.array([-3, 100, 7], t)
    w.add_tensor(name, x)
    values[name] = x.astype(np.float32)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
save_file(values, os.path.join(here, "gguf.safetensors"))
