"""The index of a folder of pieces, and its sums for `sha256sum -c`.

The folder may come from anybody: `parse` checks every rule of docs/formats/pieces.md before a name becomes a path.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadDigest, BadManifest, BadPieces, UnknownPieces
from deltaic.weights.model_file import MAX_FILE_BYTES, check_file_name

FORMAT = "deltaic.pieces"
FORMAT_VERSION = 1
INDEX_NAME = "pieces.json"
SUMS_NAME = "SHA256SUMS"
MAX_INDEX_BYTES = 8 << 20
MAX_PIECES = 32_768

_PIECE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,150}")
_HEX = re.compile(r"[0-9a-f]{64}")
_TAKEN = frozenset({INDEX_NAME.casefold(), SUMS_NAME.casefold()})
_HINT = "copy the folder again, or split the file again"


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece: its file name in the folder, where it lies in the whole file (bytes), and what it must be."""

    name: str
    offset: int
    digest: Digest

    @property
    def end(self) -> int:
        """The offset of the first byte after the piece."""
        return self.offset + self.digest.size


@dataclass(frozen=True, slots=True)
class PieceIndex:
    """A whole file and the pieces that it is cut into, in order. `by` says how: tensor, layer or size."""

    file_name: str
    digest: Digest
    by: str
    pieces: tuple[Piece, ...]

    def serialise(self) -> bytes:
        """The bytes of `pieces.json`, one piece a line; the same pieces always give the same bytes."""
        head = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "file": self.file_name,
            "bytes": self.digest.size,
            "sha256": self.digest.hex,
            "by": self.by,
        }
        rows = (
            json.dumps({"name": piece.name, "bytes": piece.digest.size, "sha256": piece.digest.hex})
            for piece in self.pieces
        )
        return f'{json.dumps(head)[:-1]}, "pieces": [\n'.encode() + ",\n".join(rows).encode() + b"\n]}\n"

    def sums(self) -> bytes:
        """The bytes of `SHA256SUMS`: every piece and the index, as `sha256sum -c` reads them."""
        named = [(piece.digest.hex, piece.name) for piece in self.pieces]
        named.append((Digest.of(self.serialise()).hex, INDEX_NAME))
        return "".join(f"{hex_}  {name}\n" for hex_, name in named).encode()


def read_index(folder: Path) -> PieceIndex:
    """The index of a folder of pieces. Raises BadPieces, UnknownPieces, OSError."""
    path = folder / INDEX_NAME
    if not path.is_file():
        raise BadPieces(f"no {INDEX_NAME} in {folder}", hint="name a folder that deltaic split has made, and finished")
    with path.open("rb") as file:
        return parse(file.read(min(path.stat().st_size, MAX_INDEX_BYTES) + 1))


def parse(data: bytes) -> PieceIndex:
    """Read an index that anybody may have made. Raises BadPieces, UnknownPieces."""
    if len(data) > MAX_INDEX_BYTES:
        raise BadPieces(f"an index of pieces has at most {MAX_INDEX_BYTES:,} bytes", hint=_HINT)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise BadPieces("the index of pieces is no JSON", hint=_HINT) from None
    try:
        return _read(content)
    except (KeyError, TypeError) as error:
        raise BadPieces(f"the index of pieces lacks something: {error}", hint=_HINT) from None
    except (BadDigest, BadManifest) as error:
        raise BadPieces(f"the index of pieces is no good: {error.message}", hint=_HINT) from None


def _read(content: dict[str, Any]) -> PieceIndex:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadPieces("not an index of pieces", hint=_HINT)
    if content["version"] != FORMAT_VERSION:
        raise UnknownPieces(
            f"pieces of format version {str(content['version'])[:20]}; this program reads {FORMAT_VERSION}",
            hint="update Deltaic here",
        )
    whole = _digest(content, MAX_FILE_BYTES)
    name, by, rows = _text(content, "file"), _text(content, "by"), content["pieces"]
    check_file_name(name)
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_PIECES:
        raise BadPieces(f"an index of pieces lists 1 to {MAX_PIECES:,} of them", hint=_HINT)
    pieces = tuple(_pieces(rows, whole.size))
    if pieces[-1].end != whole.size:
        raise BadPieces(f"pieces of {pieces[-1].end:,} bytes for a file of {whole.size:,}", hint=_HINT)
    if len({piece.name.casefold() for piece in pieces}) != len(pieces):
        raise BadPieces("two pieces have one name", hint=_HINT)
    return PieceIndex(name, whole, by[:20] if by.isalpha() else "", pieces)


def _pieces(rows: list[Any], whole: int) -> Iterator[Piece]:
    digests = [_digest(row, whole) for row in rows]
    offsets = accumulate((digest.size for digest in digests), initial=0)
    for row, digest, offset in zip(rows, digests, offsets, strict=False):
        yield Piece(check_piece_name(_text(row, "name")), offset, digest)


def check_piece_name(name: str) -> str:
    """The name, if it is a plain one that stays in its folder. Raises BadPieces."""
    if not _PIECE_NAME.fullmatch(name) or name.casefold() in _TAKEN:
        raise BadPieces(f"not a name of a piece: {name[:80]!r}", hint="do not trust this folder; split the file again")
    return name


def _digest(row: dict[str, Any], most: int) -> Digest:
    size, hex_ = row["bytes"], _text(row, "sha256")
    if type(size) is not int or not 1 <= size <= most or not _HEX.fullmatch(hex_):
        raise BadPieces("an index of pieces with an impossible size or sum", hint=_HINT)
    return Digest(bytes.fromhex(hex_), size)


def _text(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if not isinstance(value, str):
        raise BadPieces(f"an index of pieces whose {key} is no text", hint=_HINT)
    return value
