"""The numbers among the metadata of a vetted GGUF file: layers, heads, sizes.

`gguf_vet` has walked the file and says where each key lies; here the values of a few keys are read. What is no number,
or an array of more numbers than a model has layers, is left out.
"""

import struct
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from deltaic.weights.gguf_vet import KeyExtent, Survey

MOST_NUMBERS = 4096
_ARRAY = 9
_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

Number = int | float
Numbers = Number | tuple[Number, ...]


def read_numbers(path: Path, survey: Survey, names: Collection[str]) -> dict[str, Numbers]:
    """The values of those keys that are there and are numbers, or arrays of at most MOST_NUMBERS. Raises OSError."""
    found: dict[str, Numbers] = {}
    with path.open("rb") as file:
        for key in survey.keys:
            if key.name in names and (value := _value(file, key)) is not None:
                found[key.name] = value
    return found


def _value(file: BinaryIO, key: KeyExtent) -> Numbers | None:
    """The value follows the name and a type of four bytes; the walk has seen to it that all of it is there."""
    before = 8 + len(key.name.encode())
    file.seek(key.offset + before)
    raw = file.read(min(key.length - before, 4 + 4 + 8 + 8 * MOST_NUMBERS))
    kind = int.from_bytes(raw[:4], "little")
    if kind in _FORMATS:
        return _unpacked(_FORMATS[kind], 1, raw[4:])[0]
    if kind != _ARRAY:
        return None
    kind, count = int.from_bytes(raw[4:8], "little"), int.from_bytes(raw[8:16], "little")
    if kind not in _FORMATS or count > MOST_NUMBERS:
        return None
    return _unpacked(_FORMATS[kind], count, raw[16:])


def _unpacked(kind: str, count: int, raw: bytes) -> tuple[Number, ...]:
    form = struct.Struct(f"<{count}{kind}")
    return form.unpack(raw[: form.size])
