"""Writes golden/gguf/blocks.safetensors: python blocks.py FILE. Needs gguf, numpy and safetensors."""

import sys

import gguf
import numpy as np
from safetensors.numpy import save_file

# Bytes of a block at which a scale in half precision stands.
SCALES = {
    "F16": [0], "BF16": [], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}

rng = np.random.default_rng(7)


def as_bytes(numbers):
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(len(numbers), 2)


out = {}
for name, places in SCALES.items():
    kind = gguf.GGMLQuantizationType[name]
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    count = 6 if weights > 1 else 64
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    if name == "F16":
        blocks = as_bytes(rng.normal(0, 1, count).astype(np.float16))
    elif name == "BF16":
        blocks = as_bytes((rng.normal(0, 1, count).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16))
    else:
        for at in places:
            blocks[:, at : at + 2] = as_bytes(rng.normal(0, 0.1, count).astype(np.float16))
    values = gguf.quants.dequantize(blocks, kind).reshape(-1).astype(np.float32)
    assert np.isfinite(values).all(), name
    out[f"{name}.blocks"] = np.ascontiguousarray(blocks.reshape(-1))
    out[f"{name}.values"] = np.ascontiguousarray(values)
save_file(out, sys.argv[1])
