"""Scenes as SVG 1.1."""

from xml.sax.saxutils import escape

from cli.plain.scene import Rectangle, Scene, Words


def svg_of(scene: Scene) -> bytes:
    """The bytes of an SVG file."""
    size = f'width="{scene.width}" height="{scene.height}" viewBox="0 0 {scene.width} {scene.height}"'
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="monospace" font-size="10">',
        f'<rect width="100%" height="100%" fill="{scene.background}"/>',
        *(_rectangle(shape) if isinstance(shape, Rectangle) else _words(shape) for shape in scene.shapes),
        "</svg>",
    ]
    return "\n".join(lines).encode() + b"\n"


def _rectangle(shape: Rectangle) -> str:
    place = f'x="{shape.x}" y="{shape.y}" width="{shape.width}" height="{shape.height}" fill="{shape.colour}"'
    return f"<rect {place}><title>{escape(shape.told)}</title></rect>" if shape.told else f"<rect {place}/>"


def _words(shape: Words) -> str:
    turned = f' transform="rotate(-90 {shape.x} {shape.y})"' if shape.upright else ""
    return f'<text x="{shape.x}" y="{shape.y}" fill="{shape.colour}"{turned}>{escape(shape.text)}</text>'
