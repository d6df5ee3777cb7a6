"""Change the chat template of a GGUF file and nothing else.

The new text is spliced into the header: every other metadata byte, the tensor table and the tensors stay as they are,
so the result depends on the source and the texts alone. `gguf-new-metadata` rewrites the whole header instead.
"""

from pathlib import Path
from typing import BinaryIO

from gguf import GGUFReader

KEY = "tokenizer.chat_template"
_BLOCK = 1 << 20


def replace_in_template(source: Path, target: Path, old: str, new: str) -> None:
    """Write `target`: `source` with `old` replaced by `new` in its chat template.

    Raises ValueError when the file has no chat template, or when `old` is not in it exactly once.
    """
    reader = GGUFReader(source)
    field = reader.fields.get(KEY)
    if field is None:
        raise ValueError(f"{source.name} has no {KEY}")
    template = str(field.contents())
    if template.count(old) != 1:
        raise ValueError(f"{source.name}: its chat template does not hold once: {old!r}")
    text = template.replace(old, new).encode()
    # The parts of a string field are: length of the key, key, type, length of the text, text.
    text_at = field.offset + sum(part.nbytes for part in field.parts[:-2])
    text_end = field.offset + sum(part.nbytes for part in field.parts)
    table = reader.tensors[-1].field
    header_end = table.offset + sum(part.nbytes for part in table.parts)
    with source.open("rb") as old_file, target.open("wb") as new_file:
        _copy(old_file, new_file, text_at)
        new_file.write(len(text).to_bytes(8, "little") + text)
        old_file.seek(text_end)
        _copy(old_file, new_file, header_end - text_end)
        new_file.write(bytes(-new_file.tell() % reader.alignment))
        old_file.seek(reader.data_offset)
        _copy(old_file, new_file, source.stat().st_size - reader.data_offset)


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    while length:
        block = source.read(min(length, _BLOCK))
        if not block:
            raise ValueError("the file ended early")
        target.write(block)
        length -= len(block)
