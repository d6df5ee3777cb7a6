"""What `deltaic inspect` says of a delta: tables that add up, and a picture with every tensor in it."""

import json
import re
import struct
import zlib
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from cli.plain import letters
from cli.plain.delta_view import SegmentChange, codec_shares, segment_changes
from cli.plain.heat_map import colour, draw, heat_map
from cli.plain.png import png_of
from cli.plain.scene import Rectangle, Scene, Words
from cli.plain.svg import svg_of
from deltaic.errors import InvalidArgument
from deltaic.weights.delta.index import Codec, DeltaIndex, DeltaSegment, Part, serialise
from deltaic.weights.delta.patch import read_index, write_delta
from deltaic.weights.digest import Digest
from deltaic.weights.layout import SegmentKind

CHANGED = "blk.0.attn_q.weight"


@pytest.fixture
def index(tiny_gguf, tmp_path: Path) -> DeltaIndex:
    """From one version to one with one other tensor."""
    old, new = tiny_gguf("old.gguf"), tiny_gguf("new.gguf", changed=(CHANGED,))
    write_delta(old, new, tmp_path / "d.delta", jobs=1)
    return read_index(tmp_path / "d.delta")


def made_index(segment: DeltaSegment, *parts: tuple[Codec, int, int]) -> DeltaIndex:
    """One segment of parts (codec, bytes that it makes, bytes of its payload)."""
    placed, offset, paid = [], 0, 0
    for codec, made, payload in parts:
        taken = made if codec is Codec.REUSE else 0
        placed.append(Part(codec, 0, offset, made, 0, taken, 0 if payload else -1, paid, payload))
        offset, paid = offset + made, paid + payload
    source, target = Digest(bytes(32), 1 << 20), Digest(bytes(32), offset)
    packs = [Digest(bytes(32), paid)] if paid else []
    return DeltaIndex.parse(serialise(source, target, [segment], placed, packs))


def q4_1(changed: int, parts: int, before: str = "Q4_1") -> DeltaSegment:
    return DeltaSegment(SegmentKind.TENSOR, CHANGED, "Q4_1", before, 64, changed, parts)


def test_only_the_changed_tensor_costs_something(index: DeltaIndex) -> None:
    changes = segment_changes(index)
    assert [change.name for change in changes if change.delta_bytes and change.kind == "tensor"] == [CHANGED]
    (one,) = [change for change in changes if change.name == CHANGED]
    assert one.type == "Q4_1"
    assert one.source_type == ""
    assert 0 < one.changed_percent <= 100
    assert one.delta_percent == round(100 * one.delta_bytes / one.bytes, 4)
    assert all(change.changed_percent == 0 for change in changes if change.codecs == ["reuse"])


def test_tensors_and_codecs_add_up_to_the_file_and_to_the_delta(index: DeltaIndex) -> None:
    changes, shares = segment_changes(index), codec_shares(index)
    assert sum(change.bytes for change in changes) == sum(share.target_bytes for share in shares) == index.target.size
    payloads = index.size - len(index.data)
    assert sum(change.delta_bytes for change in changes) == sum(share.delta_bytes for share in shares) == payloads
    assert sum(share.chunks for share in shares) == len(index.parts)


def test_changed_bytes_are_a_share_of_bytes_whatever_the_type() -> None:
    (change,) = segment_changes(made_index(q4_1(40, 2), (Codec.REUSE, 120, 0), (Codec.BLOCK, 40, 10)))
    assert change.changed_percent == 25.0


def test_a_share_is_never_more_than_all() -> None:
    (change,) = segment_changes(made_index(q4_1(10**9, 1), (Codec.BLOCK, 40, 10)))
    assert change.changed_percent == 100.0


def test_another_type_before_is_shown_and_the_same_is_not() -> None:
    (other,) = segment_changes(made_index(q4_1(1, 1, "Q8_0"), (Codec.REQUANT, 40, 10)))
    (same,) = segment_changes(made_index(q4_1(1, 1), (Codec.BLOCK, 40, 10)))
    assert (other.source_type, same.source_type) == ("Q8_0", "")


def change(name: str, share: float) -> SegmentChange:
    return SegmentChange("tensor", name, "F32", "", 1000, share, round(10 * share), share, ["zstd"])


CHANGES = [
    change("blk.10.ffn_up.weight", 50.0),
    change("blk.2.ffn_up.weight", 0.0),
    change("blk.2.attn_q.weight", 5.0),
    change("blk.2.attn_q.bias", 1.0),
    change("token_embd.weight", 2.0),
    change("<output> & \"norm'", 2.0),
    SegmentChange("header", "blk.3.not.a.tensor", "", "", 10, 0, 0, 0, []),
]


def test_layers_are_rows_in_order_and_kinds_are_columns() -> None:
    picture = heat_map(CHANGES, "title")
    assert picture.rows == ["blk.2", "blk.10"]
    assert picture.columns == ["ffn_up", "attn_q", "attn_q.bias"]
    assert {place: one.name for place, one in picture.cells.items()} == {
        (1, 0): "blk.10.ffn_up.weight",
        (0, 0): "blk.2.ffn_up.weight",
        (0, 1): "blk.2.attn_q.weight",
        (0, 2): "blk.2.attn_q.bias",
    }
    assert [one.name for one in picture.others] == ["token_embd.weight", "<output> & \"norm'"]
    assert picture.most == 0.5


def test_a_picture_is_svg_with_a_cell_for_every_tensor_a_title_and_a_legend(tmp_path: Path) -> None:
    draw(heat_map(CHANGES, "v1 to v2"), tmp_path / "p.svg")
    space = "{http://www.w3.org/2000/svg}"
    root = ET.fromstring((tmp_path / "p.svg").read_text())
    told = [title.text for title in root.iter(f"{space}title")]
    assert len(told) == 6
    assert "blk.2.attn_q.weight: 50 of 1,000 bytes (5.00 %)" in told
    words = [text.text for text in root.iter(f"{space}text")]
    assert {"v1 to v2", "blk.2", "blk.10", "ffn_up", "token_embd", "no layer", "as it was", "0 %", "50.00 %"} <= set(
        words
    )
    for shape in root.iter(f"{space}rect"):
        if "x" in shape.attrib:
            assert int(shape.attrib["x"]) + int(shape.attrib["width"]) <= int(root.attrib["width"])
            assert int(shape.attrib["y"]) + int(shape.attrib["height"]) <= int(root.attrib["height"])


def pixels(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and rows of #rrggbb of a PNG of one byte a pixel, each chunk checked."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length) == (zlib.crc32(kind + body),)
        chunks[kind] = body
        at += 12 + length
    width, height = struct.unpack_from(">II", chunks[b"IHDR"])
    raw = zlib.decompress(chunks[b"IDAT"])
    rows = [raw[y * (width + 1) + 1 : (y + 1) * (width + 1)] for y in range(height)]
    palette = [chunks[b"PLTE"][3 * n : 3 * n + 3].hex() for n in range(len(chunks[b"PLTE"]) // 3)]
    return width, height, [[f"#{palette[index]}" for index in row] for row in rows]


def test_a_picture_is_png_with_the_same_colours(tmp_path: Path) -> None:
    draw(heat_map(CHANGES, "v1 to v2"), tmp_path / "p.PNG")
    draw(heat_map(CHANGES, "v1 to v2"), tmp_path / "p.svg")
    _, _, rows = pixels((tmp_path / "p.PNG").read_bytes())
    painted = {pixel for row in rows for pixel in row}
    assert set(re.findall(r"#[0-9a-f]{6}", (tmp_path / "p.svg").read_text())) == painted


def test_shapes_are_painted_where_they_are() -> None:
    scene = Scene(20, 20, "#ffffff", [Rectangle(2, 3, 4, 5, "#112233"), Rectangle(18, 18, 50, 50, "#445566")])
    width, height, rows = pixels(png_of(scene))
    assert (width, height) == (40, 40)
    found = {(x // 2, y // 2) for y, row in enumerate(rows) for x, pixel in enumerate(row) if pixel == "#112233"}
    assert found == {(x, y) for x in range(2, 6) for y in range(3, 8)}
    assert sum(row.count("#445566") for row in rows) == 16, "what lies outside is not drawn"


def test_letters_stand_on_their_line_and_upright_ones_go_up() -> None:
    def painted(words: Words) -> set[tuple[int, int]]:
        _, _, rows = pixels(png_of(Scene(30, 30, "#ffffff", [words])))
        return {(x // 2, y // 2) for y, row in enumerate(rows) for x, pixel in enumerate(row) if pixel == "#000000"}

    flat = painted(Words(5, 20, "L", "#000000"))
    assert flat == {(5, y) for y in range(13, 20)} | {(x, 19) for x in range(5, 10)}
    upright = painted(Words(20, 25, "L", "#000000", upright=True))
    assert upright == {(x, 25) for x in range(13, 20)} | {(19, y) for y in range(21, 26)}


def test_every_printable_letter_has_dots_and_a_foreign_one_is_a_question() -> None:
    shapes = {chr(code): tuple(letters.dots(chr(code))) for code in range(33, 127)}
    assert len(set(shapes.values())) == 94
    assert letters.dots(" ") == []
    assert letters.dots("é") == letters.dots("?")


def test_names_are_text_in_a_picture(tmp_path: Path) -> None:
    hostile = Scene(9, 9, "#ffffff", [Words(1, 1, "</svg><script>", "#000000"), Rectangle(0, 0, 1, 1, "#000000", "<&")])
    root = ET.fromstring(svg_of(hostile).decode())
    assert [child.tag.rpartition("}")[2] for child in root] == ["rect", "text", "rect"]


def test_colours_go_from_light_to_dark_and_nothing_is_grey() -> None:
    shades = [colour(share / 10, 1.0) for share in range(11)]
    assert shades[0] == "#eeeeee"
    light = [sum(bytes.fromhex(shade[1:])) for shade in shades[1:]]
    assert light == sorted(light, reverse=True)
    assert colour(0.001, 1.0) != shades[0], "little is not nothing"
    assert colour(0.0, 0.0) == shades[0]
    assert len({colour(share / 1000, 1.0) for share in range(1001)}) < 100


@pytest.mark.parametrize("name", ["picture", "picture.jpg", "picture.svgz"])
def test_another_kind_of_picture_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"name FILE\.svg or FILE\.png"):
        draw(heat_map(CHANGES, "title"), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_more_than_a_picture_can_show_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="too many for a picture"):
        heat_map([change(f"blk.{layer}.x.weight", 1.0) for layer in range(1001)], "title")
    with pytest.raises(InvalidArgument, match="too many for a picture"):
        heat_map([change(f"tensor.{number}", 1.0) for number in range(201)], "title")


def test_a_delta_without_tensors_has_a_picture_too(tmp_path: Path) -> None:
    draw(heat_map([], "nothing"), tmp_path / "p.png")
    draw(heat_map([], "nothing"), tmp_path / "p.svg")
    assert pixels((tmp_path / "p.png").read_bytes())[0] > 0


def test_what_json_says_can_be_said_in_json(index: DeltaIndex) -> None:
    from cli.plain.inspect import _as_json

    said = json.loads(json.dumps(_as_json(index, segment_changes(index), codec_shares(index))))
    assert said["delta_bytes"] == index.size
    assert len(said["segments"]) == len(index.segments)
