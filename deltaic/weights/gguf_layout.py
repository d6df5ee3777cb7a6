"""The layout of a GGUF file: header segments, one segment for each tensor, padding between them.

The file is read twice, by `gguf_vet` and by the `gguf` package, and refused when the two disagree. Files that two
parsers read differently are how checks are passed with one meaning and used with another (parser differentials; the
ZIP and PDF "chameleons" of langsec literature): what was vetted would not be what is loaded.

The header is cut at the boundaries of metadata keys, so that a change of one key moves the chunk of that key and no
other:

    GGUF                        magic, version, counts
    general.architecture ...    runs of small keys, named after the first
    tokenizer.ggml.tokens       a key of 1 KiB or more stands alone
    tokenizer.chat_template     stands alone whatever its size: it is what people fix most
    GGUF.tensors                the tensor table; its offsets are relative to the data, so a longer header does not
                                change it
    (padding)                   up to the alignment of the data
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from deltaic.weights.errors import BadLayout
from deltaic.weights.gguf_vet import KeyExtent, Survey, survey
from deltaic.weights.layout import Layout, LayoutSegment, SegmentKind

LONE_KEY_BYTES = 1024
PREAMBLE_NAME = "GGUF"
TABLE_NAME = "GGUF.tensors"

_LONE_KEYS = ("tokenizer.chat_template",)
_PREAMBLE_BYTES = 4 + 4 + 8 + 8


def read_layout(path: Path) -> Layout:
    """Vet the file and lay it out. Raises NotGGUF, Truncated, BadLayout, OSError."""
    with path.open("rb") as file:
        vetted = survey(file, path.stat().st_size)
    _compare(vetted, path)
    return Layout(vetted.architecture, vetted.size, tuple(_fill_gaps(_segments(vetted), vetted.size)))


def _compare(vetted: Survey, path: Path) -> None:
    """Refuse a file that the `gguf` package does not read exactly as our own walk did."""
    try:
        reader = _ArraySparingReader(path)
    except Exception as error:  # the package lets errors of numpy, enum and codecs through
        raise BadLayout(f"the gguf package does not read this file: {error}") from error
    theirs = [(t.name, t.tensor_type.name, tuple(map(int, t.shape)), t.data_offset, t.n_bytes) for t in reader.tensors]
    ours = [(t.name, t.ggml_type.name, t.shape, t.offset, t.length) for t in vetted.tensors]
    if theirs != ours or reader.data_offset != vetted.data_offset:
        raise BadLayout("two readers disagree about where the tensors of this file lie")
    keys = [(f.name, f.offset) for f in reader.fields.values() if f.offset >= _PREAMBLE_BYTES]
    if keys != [(key.name, key.offset) for key in vetted.keys]:
        raise BadLayout("two readers disagree about the metadata keys of this file")


class _ArraySparingReader(gguf.GGUFReader):
    """The package's reader, but with one part for each array instead of several objects for each element.

    A vocabulary has 100,000 strings and more: the original takes seconds and 180 MB for a small model. Here nobody
    looks at the elements, only at where the array ends.
    """

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[npt.NDArray[Any]], list[int], list[gguf.GGUFValueType]]:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        item_type = gguf.GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + 12
        if item_type == gguf.GGUFValueType.STRING:
            end = _end_of_strings(self.data.data, start, count)
        else:
            end = start + count * np.dtype(self.gguf_scalar_to_np[item_type]).itemsize
        whole = self._get(orig_offs, np.uint8, end - orig_offs)
        return end - orig_offs, [whole], [0], [gguf.GGUFValueType.ARRAY, item_type]


def _end_of_strings(data: memoryview, start: int, count: int) -> int:
    """Where `count` strings that begin at `start`, each after its length in 8 bytes, end."""
    for _ in range(count):
        start += 8 + int.from_bytes(data[start : start + 8], "little")
    return start


def _segments(vetted: Survey) -> Iterator[LayoutSegment]:
    yield _header(PREAMBLE_NAME, 0, _PREAMBLE_BYTES)
    yield from _key_runs(vetted.keys)
    if vetted.table_length:
        yield _header(TABLE_NAME, vetted.table_offset, vetted.table_length)
    for tensor in sorted(vetted.tensors, key=lambda one: one.offset):
        yield LayoutSegment(
            SegmentKind.TENSOR, tensor.name, tensor.ggml_type.name, tensor.shape, tensor.offset, tensor.length
        )


def _header(name: str, offset: int, length: int) -> LayoutSegment:
    return LayoutSegment(SegmentKind.HEADER, name, "", (), offset, length)


def _key_runs(keys: Iterable[KeyExtent]) -> Iterator[LayoutSegment]:
    """One segment for each key that stands alone, one for each run of keys between them."""
    run: list[KeyExtent] = []
    for key in keys:
        if run and (_stands_alone(key) or _stands_alone(run[-1])):
            yield _run(run)
            run = []
        run.append(key)
    if run:
        yield _run(run)


def _stands_alone(key: KeyExtent) -> bool:
    return key.length >= LONE_KEY_BYTES or key.name.startswith(_LONE_KEYS)


def _run(run: list[KeyExtent]) -> LayoutSegment:
    return _header(run[0].name, run[0].offset, sum(key.length for key in run))


def _fill_gaps(segments: Iterable[LayoutSegment], size: int) -> Iterator[LayoutSegment]:
    position = 0
    for segment in segments:
        if segment.offset > position:
            yield _padding(position, segment.offset)
        yield segment
        position = segment.end
    if position < size:
        yield _padding(position, size)


def _padding(start: int, end: int) -> LayoutSegment:
    return LayoutSegment(SegmentKind.PADDING, "", "", (), start, end - start)
