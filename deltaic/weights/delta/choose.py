"""One chunk of the target: every codec that can make it is tried, and the shortest payload wins."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from deltaic.weights.chunks import MAX_CHUNK_BYTES
from deltaic.weights.delta import frames
from deltaic.weights.delta.blocks import encode_blocks
from deltaic.weights.delta.float_types import FLOATS
from deltaic.weights.delta.floats import encode_floats
from deltaic.weights.delta.index import Codec
from deltaic.weights.delta.lowrank import Matrix
from deltaic.weights.delta.quants import LAYOUTS
from deltaic.weights.delta.requantised import can_requantise, encode_requantised
from deltaic.weights.digest import Buffer


@dataclass(frozen=True, slots=True)
class Material:
    """A chunk to encode, and what its holder has of it. Types are ggml names, "" for plain bytes."""

    target: bytes
    target_type: str
    source: bytes
    source_type: str
    matrix: Matrix


@dataclass(frozen=True, slots=True)
class Made:
    """A chunk encoded. `changed` counts its bytes that are not those of the source."""

    codec: Codec
    payload: Buffer
    changed: int


def best(material: Material) -> Made:
    """The shortest way to the chunk; of equally short ones the simpler."""
    if material.source_type == material.target_type and material.source == material.target:
        return Made(Codec.REUSE, b"", 0)
    candidates = [*_with_source(material), (Codec.RAW, material.target)]
    shortest = min(len(payload) for _, payload in candidates)
    if (frame := frames.pack_below(material.target, shortest)) is not None:
        candidates.append((Codec.ZSTD, frame))
    codec, payload = min(candidates, key=lambda one: len(one[1]))
    return Made(codec, payload, _changed(material))


def _with_source(material: Material) -> Iterator[tuple[Codec, Buffer]]:
    target, source = material.target, material.source
    if material.source_type == material.target_type and len(source) == len(target):
        if material.target_type in LAYOUTS:
            payload, spans = encode_blocks(material.target_type, target, source, material.matrix)
            yield Codec.SPANS if spans else Codec.BLOCK, payload
        elif material.target_type in FLOATS:
            floats = encode_floats(material.target_type, target, source, material.matrix)
            if floats is not None:
                yield Codec.FLOAT, floats
    elif can_requantise(material.target_type, material.source_type):
        requantised = encode_requantised(material.target_type, target, material.source_type, partial(_part, source))
        if requantised is not None:
            yield Codec.REQUANT, requantised
    if source and len(source) <= MAX_CHUNK_BYTES and material.target_type not in _UNDERSTOOD:
        yield Codec.PREFIX, frames.pack_after(target, source)


def _changed(material: Material) -> int:
    if material.source_type != material.target_type or len(material.source) != len(material.target):
        return len(material.target)
    return int(np.count_nonzero(np.frombuffer(material.target, np.uint8) != np.frombuffer(material.source, np.uint8)))


_UNDERSTOOD = frozenset(LAYOUTS) | frozenset(FLOATS)


def _part(data: bytes, offset: int, length: int) -> bytes:
    return data[offset : offset + length]
