"""Writes the weights of a llama-like torch model as GGUF files, in the formats that models are published in.

The header is that of the base file; F16 and BF16 are written from float32, and llama.cpp makes the quantised formats
from the F16 file, as publishers do.
"""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, ReaderTensor

FLOATS = ("F16", "BF16")
QUANTISED = {
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    "Q4_1": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_1,
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
FORMATS = (*QUANTISED, *FLOATS)

Weights = Mapping[str, torch.Tensor]
"""Tensors by the names that transformers gives them."""

_FILE_TYPES = {"F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16, "BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16}
_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
# Keys that say how a file is encoded, which the writer says itself.
_OWN_KEYS = ("general.architecture", "general.file_type", "general.quantization_version")
_HEADS = {"attn_q": "head_count", "attn_k": "head_count_kv"}
_MODEL_TENSORS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _silent(_level: int, _text: bytes, _data: object) -> None:
    """Quantising says a line for each tensor."""


def write_version(weights: Weights, base: Path, stem: Path, formats: Sequence[str]) -> None:
    """Write `stem`.FORMAT.gguf for each format. Raises RuntimeError where llama.cpp refuses, OSError."""
    for name in FLOATS:
        if name in formats or name == "F16":
            _write_floats(weights, base, _named(stem, name), name)
    llama_cpp.llama_log_set(_silent, None)
    for name in formats:
        if name in QUANTISED:
            _quantise(_named(stem, "F16"), _named(stem, name), QUANTISED[name])
    if "F16" not in formats:
        _named(stem, "F16").unlink()


def _named(stem: Path, name: str) -> Path:
    return stem.with_name(f"{stem.name}.{name}.gguf")


def _quantise(source: Path, target: Path, kind: int) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = kind
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise RuntimeError(f"llama.cpp did not quantise {source.name} to {target.name}")


def _write_floats(weights: Weights, base: Path, target: Path, kind: str) -> None:
    reader, writer = GGUFReader(base), GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name not in _OWN_KEYS:
            of = {"sub_type": field.types[-1]} if field.types[0] == GGUFValueType.ARRAY else {}
            writer.add_key_value(field.name, field.contents(), field.types[0], **of)
    writer.add_file_type(_FILE_TYPES[kind])
    for tensor in reader.tensors:
        values = _as_llama_orders(tensor, weights[_name_in_torch(tensor.name)], reader)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values.numpy())
        elif kind == "BF16":
            raw = values.to(torch.bfloat16).view(torch.uint8).numpy()
            writer.add_tensor(tensor.name, raw, raw_dtype=GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(tensor.name, values.numpy().astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _name_in_torch(name: str) -> str:
    if name in _MODEL_TENSORS:
        return _MODEL_TENSORS[name]
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{_MODULES[kind]}.weight"


def _as_llama_orders(tensor: ReaderTensor, values: torch.Tensor, reader: GGUFReader) -> torch.Tensor:
    """Rows of queries and keys in llama.cpp's order of rotary halves, which differs from that of transformers."""
    values = values.detach().float().contiguous()
    kind = tensor.name.split(".")[2] if tensor.name.startswith("blk.") else ""
    if kind not in _HEADS:
        return values
    heads = int(reader.fields[f"llama.attention.{_HEADS[kind]}"].contents())
    rows, columns = values.shape
    return values.view(heads, 2, rows // heads // 2, columns).transpose(1, 2).reshape(rows, columns).contiguous()
