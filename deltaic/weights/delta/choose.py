"""One chunk of the target: every codec that can make it is tried, and the shortest payload wins."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from deltaic.weights.chunks import MAX_CHUNK_BYTES
from deltaic.weights.delta import frames
from deltaic.weights.delta.blocks import Matrix, encode_blocks
from deltaic.weights.delta.floats import FLOATS, encode_floats
from deltaic.weights.delta.index import Codec
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
    """A chunk encoded. `changed` counts elements (bytes, where there are none) that are not as they were."""

    codec: Codec
    payload: Buffer
    changed: int


def best(material: Material) -> Made:
    """The shortest way to the chunk; of equally short ones the simpler."""
    if material.source_type == material.target_type and material.source == material.target:
        return Made(Codec.REUSE, b"", 0)
    return min(_candidates(material), key=lambda one: len(one.payload))


def _candidates(material: Material) -> Iterator[Made]:
    target, source = material.target, material.source
    if material.source_type == material.target_type and len(source) == len(target):
        if material.target_type in LAYOUTS:
            yield Made(Codec.BLOCK, encode_blocks(material.target_type, target, source, material.matrix), 0)
            return
        if material.target_type in FLOATS and (payload := encode_floats(material.target_type, target, source)):
            yield Made(Codec.FLOAT, payload, 0)
            return
    if can_requantise(material.target_type, material.source_type):
        read = partial(_part, source)
        if payload := encode_requantised(material.target_type, target, material.source_type, read):
            yield Made(Codec.REQUANT, payload, 0)
    yield Made(Codec.RAW, target, len(target))
    yield Made(Codec.ZSTD, frames.pack(target), len(target))
    if source and len(source) <= MAX_CHUNK_BYTES:
        yield Made(Codec.PREFIX, frames.pack_after(target, source), len(target))


def _part(data: bytes, offset: int, length: int) -> bytes:
    return data[offset : offset + length]
