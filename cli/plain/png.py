"""Scenes as PNG (RFC 2083): one byte a pixel and a palette, twice the size, letters of dots."""

import struct
import zlib

from cli.plain import letters
from cli.plain.scene import Rectangle, Scene, Words

_SCALE = 2
_MOST_COLOURS = 256
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BASELINE = 7  # rows of a letter above the line that it stands on


def png_of(scene: Scene) -> bytes:
    """The bytes of a PNG file. Needs a byte for each pixel; a scene has at most 256 colours."""
    colours = list(dict.fromkeys([scene.background, *(shape.colour for shape in scene.shapes)]))
    if len(colours) > _MOST_COLOURS:
        raise ValueError(f"a picture of {len(colours)} colours")
    canvas = _Canvas(scene.width, scene.height)
    for shape in scene.shapes:
        colour = colours.index(shape.colour)
        if isinstance(shape, Rectangle):
            canvas.rectangle(shape, colour)
        else:
            canvas.words(shape, colour)
    palette = b"".join(bytes.fromhex(colour.removeprefix("#")) for colour in colours)
    header = struct.pack(">IIBBBBB", canvas.width, canvas.height, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", canvas.compressed()), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


class _Canvas:
    """Pixels as indexes into a palette; what lies outside is not drawn."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width * _SCALE, height * _SCALE
        self._rows = [bytearray(self.width) for _ in range(self.height)]

    def rectangle(self, shape: Rectangle, colour: int) -> None:
        self._fill(shape.x, shape.y, shape.width, shape.height, colour)

    def words(self, shape: Words, colour: int) -> None:
        for number, letter in enumerate(shape.text):
            for column, row in letters.dots(letter):
                along, above = number * letters.WIDTH + column, _BASELINE - row
                if shape.upright:
                    self._fill(shape.x - above, shape.y - along, 1, 1, colour)
                else:
                    self._fill(shape.x + along, shape.y - above, 1, 1, colour)

    def compressed(self) -> bytes:
        """Rows, each after the byte that says it is not filtered."""
        packer = zlib.compressobj(6)
        return b"".join([*(packer.compress(b"\0" + row) for row in self._rows), packer.flush()])

    def _fill(self, x: int, y: int, width: int, height: int, colour: int) -> None:
        left, right = max(0, x * _SCALE), min(self.width, (x + width) * _SCALE)
        if left < right:
            for row in self._rows[max(0, y * _SCALE) : max(0, (y + height) * _SCALE)]:
                row[left:right] = bytes([colour]) * (right - left)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
