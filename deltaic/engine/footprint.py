"""How much memory a worker will take, from the header of its file and the settings: an estimate, on the high side.

the file                    every page of it is read while decoding
key-value memory            slots x context x layers x (key + value) x 2 bytes (f16)
logits of one batch         batch tokens x vocabulary x 4 bytes
the process                 Python, gRPC, llama.cpp
"""

import struct
from pathlib import Path
from typing import BinaryIO

from deltaic.engine.settings import EngineSettings
from deltaic.weights.errors import BadModelFile
from deltaic.weights.gguf_vet import KeyExtent, Survey, survey

_PROCESS_BYTES = 128 << 20
_KV_ELEMENT_BYTES = 2
_LOGIT_BYTES = 4
_UNSIGNED = {4: struct.Struct("<I"), 5: struct.Struct("<i"), 10: struct.Struct("<Q"), 11: struct.Struct("<q")}


def estimate(path: Path, settings: EngineSettings) -> int:
    """Bytes of memory of a worker for this file. A file that cannot be read counts with its size: loading it will fail.

    Raises OSError when it is not there.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            facts = survey(file, size)
            return size + _PROCESS_BYTES + _kv_bytes(facts, file, settings) + _logit_bytes(facts, settings)
    except BadModelFile:
        return size + _PROCESS_BYTES


def _kv_bytes(facts: Survey, file: BinaryIO, settings: EngineSettings) -> int:
    known = {key.name.removeprefix(f"{facts.architecture}."): key for key in facts.keys}

    def number(name: str, default: int) -> int:
        return _number(file, known[name], default) if name in known else default

    heads = max(1, number("attention.head_count", 1))
    head = number("embedding_length", 0) // heads
    row = number("attention.key_length", head) + number("attention.value_length", head)
    tokens = settings.slots * min(settings.context_tokens, number("context_length", settings.context_tokens))
    per_token = number("block_count", 0) * number("attention.head_count_kv", heads) * row
    return max(0, tokens * per_token * _KV_ELEMENT_BYTES)


def _logit_bytes(facts: Survey, settings: EngineSettings) -> int:
    rows = (tensor.shape[-1] for tensor in facts.tensors if tensor.name == "token_embd.weight")
    return settings.batch_tokens * next(rows, 0) * _LOGIT_BYTES


def _number(file: BinaryIO, key: KeyExtent, default: int) -> int:
    """The value of a key that is one whole number; `default` for every other kind (a list, one for each layer)."""
    file.seek(key.offset + 8 + len(key.name.encode()))
    (kind,) = struct.unpack("<I", file.read(4))
    if kind not in _UNSIGNED:
        return default
    value: int = _UNSIGNED[kind].unpack(file.read(_UNSIGNED[kind].size))[0]
    return value
