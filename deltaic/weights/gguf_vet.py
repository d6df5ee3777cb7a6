"""Structural vetting of a GGUF file before any other parser sees it.

A model file is input that somebody else made, and loaders are native code that aborts, or worse, on input that lies.
So the first reader is this one: a strict, bounded walk with `struct` over the header (format: `docs/gguf.md` of ggml,
versions 2 and 3, little endian). What it lets through is inside the file, aligned, without overlap, without duplicate
names, and small enough to be read by others. It never reads tensor data, and its memory is bounded by the limits below.

The walk also says where everything lies (`Survey`). `gguf_layout` compares that with what the `gguf` package reads: a
file that two parsers read differently is refused there.
"""

import math
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from deltaic.weights.errors import BadLayout, NotGGUF, Truncated
from deltaic.weights.ggml_types import BY_NUMBER, GgmlType
from deltaic.weights.gguf_cursor import Cursor

MAX_KEYS = 65_536
MAX_KEY_BYTES = 65_535  # the specification's limit
MAX_TENSORS = 131_072
MAX_TENSOR_NAME_BYTES = 64  # the specification's limit
MAX_ARRAY_STRINGS = 4_194_304  # in all arrays together; the largest vocabularies with their merges have a million
MAX_DIMENSIONS = 4
DEFAULT_ALIGNMENT = 32

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MIN_KEY_BYTES = 8 + 1 + 4 + 1  # length, one character, type, a one-byte value
_MIN_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # length, one character, dimensions, one of them, type, offset
_UINT32, _BOOL, _STRING, _ARRAY = 4, 7, 8, 9
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True, slots=True)
class KeyExtent:
    """Where one metadata key, with its name and value, lies in the file, in bytes."""

    name: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class TensorExtent:
    """One tensor of the table; `shape` innermost first, `offset` from the start of the file, in bytes."""

    name: str
    ggml_type: GgmlType
    shape: tuple[int, ...]
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Survey:
    """Where everything in a vetted file lies. `tensors` are in the order of the table."""

    size: int
    architecture: str
    keys: tuple[KeyExtent, ...]
    table_offset: int
    table_length: int
    data_offset: int
    tensors: tuple[TensorExtent, ...]


def vet(source: BinaryIO, size: int) -> None:
    """Refuse a file of `size` bytes that is not a well-formed GGUF. Raises NotGGUF, Truncated, BadLayout."""
    survey(source, size)


def survey(source: BinaryIO, size: int) -> Survey:
    """Vet a file of `size` bytes and say where everything lies. Raises NotGGUF, Truncated, BadLayout."""
    cursor = Cursor(source, size)
    _check_preamble(cursor)
    tensor_count = cursor.count("tensors", item_bytes=_MIN_TENSOR_BYTES, limit=MAX_TENSORS)
    key_count = cursor.count("metadata keys", item_bytes=_MIN_KEY_BYTES, limit=MAX_KEYS)
    metadata = _Metadata(cursor)
    keys = metadata.walk(key_count)
    table_offset = cursor.position
    relative = _walk_table(cursor, tensor_count, metadata.alignment)
    data_offset = cursor.position + -cursor.position % metadata.alignment
    tensors = tuple(
        TensorExtent(one.name, one.ggml_type, one.shape, data_offset + one.offset, one.length) for one in relative
    )
    _check_placement(tensors, size)
    return Survey(size, metadata.architecture, keys, table_offset, cursor.position - table_offset, data_offset, tensors)


def _check_preamble(cursor: Cursor) -> None:
    if cursor.size == 0:
        raise NotGGUF("the file is empty")
    begin = cursor.take(min(4, cursor.size), "the magic")
    if begin != _MAGIC:
        if _MAGIC.startswith(begin):
            raise Truncated(f"the file ends after {len(begin)} bytes", hint="copy or download the file again")
        raise NotGGUF(f"not a GGUF file: it begins with {begin!r}", hint="convert the model to GGUF first")
    version = cursor.u32("the version")
    if version & 0xFFFF == 0:
        raise NotGGUF("a big-endian GGUF file", hint="convert it with gguf-convert-endian FILE little")
    if version not in _VERSIONS:
        raise NotGGUF(f"GGUF version {version}; versions 2 and 3 are read", hint="convert the model again")


class _Metadata:
    """The walk over the metadata keys, and the two values that the rest of the walk needs."""

    def __init__(self, cursor: Cursor) -> None:
        self._cursor = cursor
        self._strings_left = MAX_ARRAY_STRINGS
        self.alignment = DEFAULT_ALIGNMENT
        self.architecture = ""

    def walk(self, count: int) -> tuple[KeyExtent, ...]:
        keys: dict[str, KeyExtent] = {}
        for _ in range(count):
            start = self._cursor.position
            name = self._cursor.name("a metadata key", limit=MAX_KEY_BYTES)
            if name in keys:
                raise BadLayout(f"the metadata key {name!r} appears twice")
            self._value(name)
            keys[name] = KeyExtent(name, start, self._cursor.position - start)
        if not self.architecture:
            raise BadLayout("the file has no general.architecture", hint="it is not a model, or its conversion failed")
        return tuple(keys.values())

    def _value(self, name: str) -> None:
        what = f"the value of {name!r}"
        kind = self._cursor.u32(what)
        if name == "general.alignment":
            self._alignment(kind, what)
        elif name == "general.architecture":
            self._architecture(kind, what)
        elif kind == _ARRAY:
            self._array(what)
        elif kind == _STRING:
            self._cursor.skip(self._cursor.u64(what), what)
        elif kind == _BOOL:
            _check_bools(self._cursor.take(1, what), what)
        elif kind in _SCALAR_BYTES:
            self._cursor.skip(_SCALAR_BYTES[kind], what)
        else:
            raise BadLayout(f"{what} has the unknown type {kind}")

    def _array(self, what: str) -> None:
        kind = self._cursor.u32(what)
        if kind == _STRING:
            count = self._cursor.count(f"strings in {what}", item_bytes=8, limit=self._strings_left)
            self._strings_left -= count
            self._cursor.skip_strings(count, what)
        elif kind == _BOOL:
            count = self._cursor.count(f"booleans in {what}", item_bytes=1, limit=MAX_ARRAY_STRINGS)
            _check_bools(self._cursor.take(count, what), what)
        elif kind in _SCALAR_BYTES:
            self._cursor.skip(self._cursor.u64(what) * _SCALAR_BYTES[kind], what)
        elif kind == _ARRAY:
            raise BadLayout(f"{what} is an array of arrays, which no loader reads")
        else:
            raise BadLayout(f"{what} is an array of the unknown type {kind}")

    def _alignment(self, kind: int, what: str) -> None:
        if kind != _UINT32:
            raise BadLayout(f"{what} must be a 32-bit number")
        self.alignment = self._cursor.u32(what)
        if self.alignment < 8 or self.alignment & (self.alignment - 1):
            raise BadLayout(f"{what} is {self.alignment}; it must be a power of two from 8 up")

    def _architecture(self, kind: int, what: str) -> None:
        if kind != _STRING:
            raise BadLayout(f"{what} must be a string")
        self.architecture = self._cursor.name(what, limit=64)
        if not all(char.isascii() and (char.isalnum() or char in "._-") for char in self.architecture):
            raise BadLayout(f"{what} is not a plain word: {self.architecture!r}")


def _check_bools(raw: bytes, what: str) -> None:
    if raw.strip(b"\x00\x01"):
        raise BadLayout(f"{what} holds a boolean that is neither 0 nor 1")


def _walk_table(cursor: Cursor, count: int, alignment: int) -> list[TensorExtent]:
    """The tensors of the table, their offsets still relative to the start of the data."""
    tensors: dict[str, TensorExtent] = {}
    for _ in range(count):
        name = cursor.name("a tensor name", limit=MAX_TENSOR_NAME_BYTES)
        if name in tensors:
            raise BadLayout(f"the tensor {name!r} appears twice")
        tensors[name] = _tensor(cursor, name, alignment)
    return list(tensors.values())


def _tensor(cursor: Cursor, name: str, alignment: int) -> TensorExtent:
    what = f"tensor {name!r}"
    dimensions = cursor.u32(what)
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise BadLayout(f"{what} has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are possible")
    shape = tuple(cursor.u64(what) for _ in range(dimensions))
    number = cursor.u32(what)
    offset = cursor.u64(what)
    if number not in BY_NUMBER:
        raise BadLayout(f"{what} has the unknown type {number}", hint="update Deltaic, or convert the model again")
    if offset % alignment:
        raise BadLayout(f"{what} starts at {offset:,}, which is not a multiple of the alignment {alignment}")
    return TensorExtent(name, BY_NUMBER[number], shape, offset, tensor_bytes(what, shape, BY_NUMBER[number]))


def tensor_bytes(what: str, shape: tuple[int, ...], ggml_type: GgmlType) -> int:
    """The bytes that a tensor takes. Raises BadLayout for a shape that no tensor can have."""
    elements = math.prod(shape)
    if not 1 <= elements < 2**63:
        raise BadLayout(f"{what} has the impossible shape {list(shape)}")
    if shape[0] % ggml_type.block_elements:
        raise BadLayout(
            f"rows of {what} have {shape[0]:,} elements, not a multiple of {ggml_type.block_elements},"
            f" the block of {ggml_type.name}"
        )
    return elements // ggml_type.block_elements * ggml_type.block_bytes


def _check_placement(tensors: tuple[TensorExtent, ...], size: int) -> None:
    end, before = 0, ""
    for tensor in sorted(tensors, key=lambda one: one.offset):
        if tensor.offset < end:
            raise BadLayout(f"the tensors {before!r} and {tensor.name!r} overlap")
        end, before = tensor.offset + tensor.length, tensor.name
        if end > size:
            _refuse_end(tensor, size)


def _refuse_end(tensor: TensorExtent, size: int) -> NoReturn:
    raise Truncated(
        f"the file has {size:,} bytes but the tensor {tensor.name!r} lies from {tensor.offset:,}"
        f" to {tensor.offset + tensor.length:,}",
        hint="copy or download the file again",
    )
