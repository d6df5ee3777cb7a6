"""Tiny GGUF files of every tensor type, and later versions of them, to try deltas on.

    weights = draw_weights(random, rows=8, row_elements=256)
    old = sample_file(path, [tensor("blk.0.ffn_up.weight", "Q4_K", weights)])
    new = sample_file(path, [tensor("blk.0.ffn_up.weight", "Q4_K", evolve(random, weights, "sparse"))])

Blocks are quantised by the ggml that is installed with llama-cpp-python, so they are what a publisher's would be;
`noise` gives blocks of random bytes instead, infinities and NaNs included.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from deltaic.weights.ggml_types import BY_NAME

TYPES = (
    *("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"),
    *("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"),
)
"""What deltas understand."""
OTHER_TYPES = ("I16", "TQ1_0", "MXFP4")
"""What they treat as bytes."""
CHANGES = ("none", "one", "sparse", "nudged", "low rank", "all", "other")
"""How a later version of a tensor may differ; see `evolve`."""

Random = np.random.Generator
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sample:
    """A tensor to write: `data` are `rows` rows of `row_elements` elements of `ggml_type`."""

    name: str
    ggml_type: str
    rows: int
    row_elements: int
    data: bytes


def draw_weights(random: Random, rows: int, row_elements: int) -> Weights:
    """Weights as models have them: normal, with rows and columns of different size."""
    scale = np.exp(random.normal(-3, 0.7, (rows, 1))) * np.exp(random.normal(0, 0.3, row_elements))
    drawn: Weights = (random.standard_normal((rows, row_elements)) * scale).astype(np.float32)
    return drawn


def evolve(random: Random, weights: Weights, change: str) -> Weights:
    """A later version of weights; `change` is one of CHANGES, "other" has nothing in common with them."""
    if change == "other":
        return draw_weights(random, *weights.shape)
    later: Weights = (weights + _moves(random, weights, change) * np.abs(weights).mean()).astype(np.float32)
    return later


def _moves(random: Random, weights: Weights, change: str) -> npt.NDArray[Any]:
    """How far each weight moves, in typical weights."""
    rows, columns = weights.shape
    normal = random.standard_normal(weights.shape)
    match change:
        case "one":
            return np.eye(1, weights.size, int(random.integers(weights.size))).reshape(weights.shape)
        case "sparse":
            return normal * (random.random(weights.shape) < 0.02) / 4
        case "nudged":
            return normal / 200
        case "low rank":
            return random.standard_normal((rows, 2)) @ random.standard_normal((2, columns)) / 50
        case "all":
            return normal / 3
        case "none":
            return np.zeros_like(weights)
        case _:
            raise ValueError(f"{change!r} is none of {CHANGES}")


def tensor(name: str, ggml_type: str, weights: Weights) -> Sample:
    """Weights as a tensor of a type that deltas understand."""
    rows, columns = weights.shape
    return Sample(name, ggml_type, rows, columns, _quantise(np.ascontiguousarray(weights), ggml_type))


def noise(random: Random, name: str, ggml_type: str, rows: int, row_elements: int) -> Sample:
    """A tensor of random bytes, of any type."""
    return Sample(name, ggml_type, rows, row_elements, random.bytes(rows * row_bytes(ggml_type, row_elements)))


def row_bytes(ggml_type: str, row_elements: int) -> int:
    """Bytes of a row of whole blocks."""
    known = BY_NAME[ggml_type]
    return row_elements // known.block_elements * known.block_bytes


def sample_file(path: Path, samples: Sequence[Sample], keys: Mapping[str, str] | None = None) -> Path:
    """Write a GGUF file with these tensors and, besides what a model must say, these keys of text."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    for key, value in (keys or {}).items():
        writer.add_string(key, value)
    for sample in samples:
        kind = gguf.GGMLQuantizationType[sample.ggml_type]
        shape = (sample.rows, sample.row_elements) if sample.rows > 1 else (sample.row_elements,)
        writer.add_tensor_info(sample.name, shape, np.dtype(np.float32), len(sample.data), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for sample in samples:
        writer.write_tensor_data(np.frombuffer(sample.data, np.uint8))
    writer.close()
    return path


def _quantise(weights: Weights, ggml_type: str) -> bytes:
    number = BY_NAME[ggml_type].number
    out = ctypes.create_string_buffer(weights.shape[0] * row_bytes(ggml_type, weights.shape[1]))
    source = weights.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    written = _ggml().ggml_quantize_chunk(number, source, out, 0, *weights.shape, None)
    if written != len(out):
        raise ValueError(f"ggml wrote {written} bytes of {ggml_type} instead of {len(out)}")
    return out.raw


@cache
def _ggml() -> Any:
    found = find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise ImportError("llama-cpp-python is not installed: run make setup")
    library = ctypes.CDLL(str(Path(found.origin).parent / "lib" / "libggml-base.so"))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_float),
        ctypes.c_void_p,
        *[ctypes.c_int64] * 3,
        ctypes.c_void_p,
    ]
    return library
