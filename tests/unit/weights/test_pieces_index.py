"""An index of pieces says exactly what a folder holds, and a hostile one never becomes a path."""

import json

import pytest

from deltaic.weights.digest import Digest
from deltaic.weights.errors import BadPieces, UnknownPieces
from deltaic.weights.pieces.index import MAX_INDEX_BYTES, Piece, PieceIndex, parse

WHOLE = Digest.of(b"whole file")
INDEX = PieceIndex(
    "model.gguf",
    WHOLE,
    "size",
    (Piece("0000-gguf.piece", 0, Digest.of(b"whole ")), Piece("0001-gguf.piece", 6, Digest.of(b"file"))),
)


def changed(**fields: object) -> bytes:
    return json.dumps(json.loads(INDEX.serialise()) | fields).encode()


def with_piece(**fields: object) -> bytes:
    content = json.loads(INDEX.serialise())
    content["pieces"][0] |= fields
    return json.dumps(content).encode()


def test_an_index_comes_back_as_it_was_written() -> None:
    assert parse(INDEX.serialise()) == INDEX
    assert INDEX.pieces[1].end == WHOLE.size


def test_an_index_is_json_with_a_line_for_each_piece() -> None:
    lines = INDEX.serialise().decode().splitlines()
    assert len(lines) == 4
    assert json.loads(lines[1].rstrip(",")) == {
        "name": "0000-gguf.piece",
        "bytes": 6,
        "sha256": Digest.of(b"whole ").hex,
    }


def test_sums_name_every_piece_and_the_index() -> None:
    assert INDEX.sums().decode().splitlines() == [
        f"{Digest.of(b'whole ').hex}  0000-gguf.piece",
        f"{Digest.of(b'file').hex}  0001-gguf.piece",
        f"{Digest.of(INDEX.serialise()).hex}  pieces.json",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "../0000.piece", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b", "a\nb", "pieces.json", "PIECES.json",
        "SHA256SUMS", "-rf", "näme", "x" * 152, "a b",
    ],
)  # fmt: skip
def test_a_name_that_leaves_the_folder_or_means_something_else_is_refused(name: str) -> None:
    with pytest.raises(BadPieces, match="not a name of a piece"):
        parse(with_piece(name=name))


@pytest.mark.parametrize("name", ["../model.gguf", "/model.gguf", "", ".gguf", "a/b", "x" * 300, "con|out"])
def test_the_name_of_the_whole_file_is_plain(name: str) -> None:
    with pytest.raises(BadPieces):
        parse(changed(file=name))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b"1" * 10_000,
        b"\xff\xfe",
        changed(format="something else"),
        changed(pieces=[]),
        changed(pieces="0000"),
        changed(pieces=[None]),
        changed(pieces=[[]]),
        changed(bytes=11),
        changed(bytes=True),
        changed(bytes=-10),
        changed(bytes=10.0),
        changed(bytes=1 << 70),
        changed(sha256="00"),
        changed(sha256=None),
        changed(file=7),
        changed(by=["size"]),
        with_piece(bytes=0),
        with_piece(bytes=7),
        with_piece(sha256="A" * 64),
        with_piece(name="0001-gguf.piece"),
        with_piece(name="0001-GGUF.piece"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(data: bytes) -> None:
    with pytest.raises(BadPieces):
        parse(data)


def test_fields_that_are_missing_are_named() -> None:
    content = json.loads(INDEX.serialise())
    for key in ("version", "file", "bytes", "sha256", "by", "pieces"):
        with pytest.raises(BadPieces, match=key):
            parse(json.dumps({name: value for name, value in content.items() if name != key}).encode())


def test_an_index_of_another_version_is_not_guessed_at() -> None:
    with pytest.raises(UnknownPieces, match="version 2"):
        parse(changed(version=2))


def test_an_index_is_never_larger_than_its_bound() -> None:
    with pytest.raises(BadPieces, match="at most"):
        parse(INDEX.serialise() + b" " * MAX_INDEX_BYTES)
