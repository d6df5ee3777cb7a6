"""LoRA adapters for the demo model, made on the spot: small random matrices, strong enough to change answers."""

from pathlib import Path

import gguf
import numpy as np


def write_lora(
    path: Path, *, width: int = 576, layers: int = 4, rank: int = 4, seed: int = 1, strength: float = 4
) -> Path:
    """An adapter of the attention outputs of the first layers. `width` is the model's embedding length."""
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for layer in range(layers):
        name = f"blk.{layer}.attn_output.weight"
        down, up = draw.normal(size=(rank, width)), draw.normal(size=(width, rank))
        writer.add_tensor(f"{name}.lora_a", (down * strength / width**0.5).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", up.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
