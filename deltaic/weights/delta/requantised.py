"""The codec REQUANT: a tensor from the same tensor in another type, of this version or of one close to it.

For a quantised target:

    halves      scales, then minimums: `halves`, from those that a plain quantiser would have chosen
    numbers     integers of sub-blocks, field by field, each less what a plain quantiser would have chosen
    surprises   levels against the values of the source rounded under those scales: `surprises`, strip by strip

For a floating-point target: what FLOAT writes, from the source rounded to the type of the target.

"Plain" is to take the outermost value of a sub-block for its scale (ggml's reference quantisers search around that), so
what is coded is by how much a better quantiser knew better.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deltaic.weights.delta.float_types import FLOATS
from deltaic.weights.delta.floats import decode_floats, encode_floats
from deltaic.weights.delta.halves import OriginOf, read_halves, write_halves
from deltaic.weights.delta.lowrank import Matrix
from deltaic.weights.delta.numbers import Numbers, read_all, write_numbers
from deltaic.weights.delta.payload import PayloadReader, PayloadWriter
from deltaic.weights.delta.predict import Scales
from deltaic.weights.delta.quants import LAYOUTS, Bytes, Field, Layout
from deltaic.weights.delta.surprises import STEP, Small, SurpriseReader, SurpriseWriter
from deltaic.weights.delta.values import Values, has_values, read_values, write_floats
from deltaic.weights.digest import Buffer
from deltaic.weights.ggml_types import BY_NAME

ReadBytes = Callable[[int, int], Buffer]
"""`read(offset, length)` gives bytes of the source, from the first that belongs to the target."""

_STRIP_ELEMENTS = 1 << 15
_LEAST = 2.0**-40


def can_requantise(target_type: str, source_type: str) -> bool:
    """Whether this codec makes the one type from the other."""
    return target_type != source_type and has_values(target_type) and has_values(source_type)


def encode_requantised(target_type: str, new: Buffer, source_type: str, read: ReadBytes) -> bytes | None:
    """The payload that makes `new`, of whole blocks, from the source; None when a number moves too far to be coded."""
    elements = _elements(target_type, len(new))
    if target_type in FLOATS:
        return encode_floats(target_type, new, _rounded(target_type, elements, source_type, read), Matrix(0, 0))
    layout = LAYOUTS[target_type]
    after = np.frombuffer(new, np.uint8).reshape(-1, layout.block_bytes)
    plain = _plain(layout, elements, source_type, read)
    out = PayloadWriter()
    for at, guess in zip(layout.halves, plain.halves, strict=True):
        write_halves(out, _half(after, at), guess, None)
    for field, small in zip(layout.small_fields, plain.small, strict=True):
        write_numbers(out, _wrapped(field, field.unpack(np.ascontiguousarray(after.T)) - small).reshape(-1))
    surprises = SurpriseWriter(lattice=False)
    for strip, values in _strips(layout, elements, source_type, read):
        guess_levels, fraction = _levels_under(layout, values, after[strip])
        true = layout.levels.unpack(np.ascontiguousarray(after[strip].T))
        true = (true.view(np.int8) if layout.signed else true).astype(np.int32)
        surprises.add((true - guess_levels).reshape(-1), fraction.reshape(-1), None)
    surprises.write(out)
    return bytes(out.data)


def decode_requantised(target_type: str, payload: Buffer, length: int, source_type: str, read: ReadBytes) -> Buffer:
    """The `length` bytes of the target. Raises BadDelta."""
    elements = _elements(target_type, length)
    if target_type in FLOATS:
        return decode_floats(target_type, payload, _rounded(target_type, elements, source_type, read), Matrix(0, 0))
    layout = LAYOUTS[target_type]
    plain = _plain(layout, elements, source_type, read)
    reader = PayloadReader(payload)
    blocks = np.zeros((length // layout.block_bytes, layout.block_bytes), np.uint8)
    for at, guess in zip(layout.halves, plain.halves, strict=True):
        blocks[:, at : at + 2] = read_halves(reader, guess, OriginOf(lambda: None)).view(np.uint8).reshape(-1, 2)
    for field, small in zip(layout.small_fields, plain.small, strict=True):
        steps = read_all(reader, small.size).astype(np.int32).reshape(small.shape)
        _put(field, blocks, (small + steps) & ((1 << field.bits) - 1))
    surprises = SurpriseReader(reader, elements, lattice=False)
    reader.finish()
    for strip, values in _strips(layout, elements, source_type, read):
        levels, fraction = _levels_under(layout, values, blocks[strip])
        places, differences = surprises.strip(fraction.reshape(-1), None)
        levels.reshape(-1)[places] += differences
        part = blocks[strip]
        _put(layout.levels, part, levels & ((1 << layout.levels.bits) - 1))
        blocks[strip] = part
    return blocks.reshape(-1).data


@dataclass(frozen=True, slots=True)
class _Plain:
    """What a plain quantiser would have chosen: for each half-precision number of a block, for each small field."""

    halves: list[npt.NDArray[np.uint16]]
    small: list[npt.NDArray[np.int32]]


def _plain(layout: Layout, elements: int, source_type: str, read: ReadBytes) -> _Plain:
    found = [_plain_strip(layout, values) for _, values in _strips(layout, elements, source_type, read)]
    halves = [np.concatenate([strip.halves[at] for strip in found]) for at in range(len(layout.halves))]
    small = [np.concatenate([strip.small[at] for strip in found], 1) for at in range(len(layout.small_fields))]
    return _Plain(halves, small)


def _plain_strip(layout: Layout, values: Values) -> _Plain:
    """Of `values`, (elements, blocks)."""
    groups = values.reshape(-1, layout.sub_elements, values.shape[1])
    highest, lowest = groups.max(1), groups.min(1)
    low, high = layout.range
    if layout.minimum is None:
        outermost = np.where(-lowest > highest, lowest, highest)
        scale, minimum = outermost / (low - layout.zero) if layout.zero else np.abs(outermost) / high, None
    else:
        under = np.minimum(lowest, 0.0) if layout.small_fields else lowest
        scale, minimum = (highest - under) / high, -under * layout.minimum_sign
    halves, small = [], []
    for parts, field, least in (
        (scale, layout.sub_scales, layout.sub_scale_zero),
        (minimum, layout.sub_minimums, 0),
    ):
        if parts is None:
            continue
        if field is None:
            halves.append(_to_half(parts[0]))
            continue
        whole, integers = _share(parts, field, least)
        halves.append(whole)
        small.append(integers)
    return _Plain(halves, small)


def _share(parts: Values, field: Field, zero: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int32]]:
    """Numbers of sub-blocks, (sub-blocks, blocks), as integers times one half-precision number of the block."""
    signed = field.bits == 8 or zero > 0
    limit = (1 << field.bits - 1) if signed else (1 << field.bits) - 1
    outermost = np.take_along_axis(parts, np.abs(parts).argmax(0)[None], 0)[0]
    unit = outermost / (-limit if signed else limit)
    integers = np.rint(parts / np.where(unit == 0, 1.0, unit)[None])
    bounded = np.clip(integers, -limit if signed else 0, limit - 1 if signed else limit)
    return _to_half(unit), bounded.astype(np.int32) + zero


def _levels_under(layout: Layout, values: Values, blocks: Bytes) -> tuple[Numbers, Small]:
    """(levels, fraction in 64ths) of `values`, (elements, blocks), rounded under the scales of `blocks`."""
    scales = Scales.of(layout, blocks)
    scale = np.where(scales.scale == 0, _LEAST, scales.scale.astype(np.float64))[:, None, :]
    groups = values.reshape(-1, layout.sub_elements, values.shape[1])
    number = (groups + scales.minimum.astype(np.float64)[:, None, :]) / scale
    low, high = layout.range
    np.clip(number, low - layout.zero, high - layout.zero, out=number)
    sixty_fourths = np.rint(number * STEP).astype(np.int32).reshape(values.shape)
    nearest = (sixty_fourths + STEP // 2) >> 6
    return nearest + layout.zero, (sixty_fourths - nearest * STEP).astype(np.int8)


def _strips(layout: Layout, elements: int, source_type: str, read: ReadBytes) -> Iterator[tuple[slice, Values]]:
    """Slices of the target's blocks, each with the values of the source there, (elements of a block, blocks)."""
    for start in range(0, elements, _STRIP_ELEMENTS):
        count = min(_STRIP_ELEMENTS, elements - start)
        values = _read(source_type, start, count, read).reshape(-1, layout.elements)
        first = start // layout.elements
        yield slice(first, first + len(values)), np.ascontiguousarray(values.T)


def _rounded(target_type: str, elements: int, source_type: str, read: ReadBytes) -> bytes:
    starts = range(0, elements, _STRIP_ELEMENTS)
    return b"".join(
        write_floats(target_type, _read(source_type, start, min(_STRIP_ELEMENTS, elements - start), read))
        for start in starts
    )


def _read(source_type: str, start: int, count: int, read: ReadBytes) -> Values:
    """`start` is a multiple of every block; `count` may end inside a block of the source."""
    known = BY_NAME[source_type]
    length = -(-count // known.block_elements) * known.block_bytes
    return read_values(source_type, read(start // known.block_elements * known.block_bytes, length))[:count]


def _elements(ggml_type: str, length: int) -> int:
    known = BY_NAME[ggml_type]
    return length // known.block_bytes * known.block_elements


def _to_half(values: Values) -> npt.NDArray[np.uint16]:
    return np.frombuffer(write_floats("F16", values), "<u2")


def _half(blocks: Bytes, at: int) -> npt.NDArray[np.uint16]:
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<u2")[:, 0]


def _wrapped(field: Field, difference: npt.NDArray[np.int32]) -> Numbers:
    half = 1 << (field.bits - 1)
    return ((difference.astype(np.int32) + half) & ((1 << field.bits) - 1)) - half


def _put(field: Field, blocks: Bytes, entries: npt.NDArray[np.int32]) -> None:
    """Write all entries, (entries, blocks), of a field whose bits are zero."""
    columns = np.ascontiguousarray(blocks.T)
    field.pack(entries.astype(np.uint8), columns)
    blocks[:] = columns.T
