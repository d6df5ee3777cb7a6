"""A valid GGUF file of any size whose weights are noise: synthetic.py TARGET GIGABYTES [SEED]

The layout is that of a llama with as many layers as it takes; every tensor is Q4_K, and its bytes are random, so that
nothing compresses and no two chunks are alike. It is for moving, not for answering.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

_WIDTH = 4096
_Q4_K_BLOCK = (256, 144)
"""Elements and bytes of a block."""
_TENSORS = {"attn_q": 1, "attn_k": 1, "attn_v": 1, "attn_output": 1, "ffn_gate": 3, "ffn_up": 3, "ffn_down": 3}
"""Names of a layer's matrices, and their rows in units of the width."""
_PIECE_BYTES = 16 << 20


def write(target: Path, size: int, seed: int = 1) -> None:
    """Write a model of about `size` bytes, 16 MiB of it in memory."""
    elements, block_bytes = _Q4_K_BLOCK
    row_bytes = _WIDTH // elements * block_bytes
    shapes = list(_shapes(size, row_bytes))
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_name(f"noise of {size:,} bytes")
    writer.add_block_count(len(shapes) // len(_TENSORS))
    for name, rows in shapes:
        kind = gguf.GGMLQuantizationType.Q4_K
        writer.add_tensor_info(name, (rows, row_bytes), np.dtype(np.uint8), rows * row_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    noise = np.random.default_rng(seed)
    with target.open("ab") as file:
        for _, rows in shapes:
            file.write(bytes(-file.tell() % gguf.GGUF_DEFAULT_ALIGNMENT))
            for start in range(0, rows * row_bytes, _PIECE_BYTES):
                file.write(noise.bytes(min(_PIECE_BYTES, rows * row_bytes - start)))


def _shapes(size: int, row_bytes: int) -> Iterator[tuple[str, int]]:
    layer_bytes = sum(_TENSORS.values()) * _WIDTH * row_bytes
    for layer in range(max(1, round(size / layer_bytes))):
        for name, widths in _TENSORS.items():
            yield f"blk.{layer}.{name}.weight", widths * _WIDTH


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(float(sys.argv[2]) * 1e9), *map(int, sys.argv[3:]))
