"""Where a file is cut: pieces are contiguous, together all of the file, and named so that they sort."""

from pathlib import Path

import pytest

from deltaic.errors import InvalidArgument
from deltaic.weights.errors import NotGGUF
from deltaic.weights.gguf_layout import read_layout
from deltaic.weights.layout import LayoutSegment, SegmentKind
from deltaic.weights.pieces.index import check_piece_name
from deltaic.weights.pieces.plan import By, by_segments, cuts_of


@pytest.mark.parametrize("by", list(By))
def test_pieces_are_contiguous_and_all_of_the_file(by: By, tiny_gguf) -> None:
    file = tiny_gguf()
    cuts = cuts_of(file, by, 1000)
    end = 0
    for cut in cuts:
        assert cut.offset == end
        assert cut.length > 0
        assert check_piece_name(cut.name) == cut.name
        end += cut.length
    assert end == file.stat().st_size
    assert [cut.name for cut in cuts] == sorted(cut.name for cut in cuts)


def test_by_tensor_each_tensor_is_a_piece_that_begins_with_it(tiny_gguf) -> None:
    file = tiny_gguf()
    tensors = [one for one in read_layout(file).segments if one.kind is SegmentKind.TENSOR]
    header, *cuts = cuts_of(file, By.TENSOR, 0)
    assert header.name == "0000-header.piece"
    assert [cut.name[5:] for cut in cuts] == [f"{tensor.name}.piece" for tensor in tensors]
    assert [cut.offset for cut in cuts] == [tensor.offset for tensor in tensors]
    assert all(cut.length - tensor.length < 32 for cut, tensor in zip(cuts, tensors, strict=True))


def test_by_layer_the_tensors_of_a_layer_are_together(tiny_gguf) -> None:
    names = [cut.name[5:].removesuffix(".piece") for cut in cuts_of(tiny_gguf(), By.LAYER, 0)]
    assert names == ["header", "token_embd.weight", "blk.0", "output_norm.weight"]


def test_by_size_every_piece_but_the_last_has_that_size(tmp_path: Path) -> None:
    file = tmp_path / "any.bin"
    file.write_bytes(bytes(2500))
    cuts = cuts_of(file, By.SIZE, 1000)
    assert [(cut.name, cut.length) for cut in cuts] == [
        ("0000-bin.piece", 1000),
        ("0001-bin.piece", 1000),
        ("0002-bin.piece", 500),
    ]


def test_a_layer_whose_tensors_lie_apart_is_several_pieces() -> None:
    names = ["blk.0.a", "blk.1.a", "blk.0.b", "blk.10.a", "blk.1x.a"]
    segments = [LayoutSegment(SegmentKind.TENSOR, name, "F32", (1,), 4 * at, 4) for at, name in enumerate(names)]
    found = [cut.name for cut in by_segments(segments, By.LAYER)]
    assert found == [
        "0000-blk.0.piece",
        "0001-blk.1.piece",
        "0002-blk.0.piece",
        "0003-blk.10.piece",
        "0004-blk.1x.a.piece",
    ]


def test_a_tensor_with_any_name_gets_a_plain_one() -> None:
    segments = [LayoutSegment(SegmentKind.TENSOR, "../../é x/" + "y" * 500, "F32", (1,), 0, 4)]
    (cut,) = by_segments(segments, By.TENSOR)
    assert check_piece_name(cut.name) == cut.name
    assert "/" not in cut.name


@pytest.mark.parametrize("size", [0, -1, 1])
def test_pieces_that_would_be_too_many_are_refused(size: int, tmp_path: Path) -> None:
    file = tmp_path / "any.bin"
    file.write_bytes(bytes(40_000))
    with pytest.raises(InvalidArgument, match="choose larger pieces"):
        cuts_of(file, By.SIZE, size)


def test_an_empty_file_has_no_pieces(tmp_path: Path) -> None:
    file = tmp_path / "empty"
    file.touch()
    with pytest.raises(InvalidArgument, match="empty"):
        cuts_of(file, By.SIZE, 10)


def test_what_is_no_gguf_file_has_no_tensors(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"no model at all" * 100)
    with pytest.raises(NotGGUF):
        cuts_of(file, By.TENSOR, 0)
