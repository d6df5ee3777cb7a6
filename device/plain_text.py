"""Text as a detector reads it: what looks the same to a person becomes the same characters.

Full-width, superscript and foreign decimal digits become 0 to 9, every dash a hyphen, every space a space; characters
that nobody sees (zero-width joiners, soft hyphens, control characters, combining marks) are left out.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

_INVISIBLE = frozenset({"Cf", "Cc", "Mn", "Me"})
_DASHES = frozenset({"Pd", "Pc"})
_LINES = frozenset("\t\r\n\x0b\x0c\x85\u2028\u2029")


@dataclass(frozen=True, slots=True)
class PlainText:
    """`text`, and for each of its characters the index of the character of the original that it came from."""

    text: str
    origin: Sequence[int]

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Where `text[start:end]` lies in the original; not for an empty span."""
        return self.origin[start], self.origin[end - 1] + 1


def plain(original: str) -> PlainText:
    """Fold the characters of a text. Linear in its length."""
    if original.isascii() and original.isprintable():
        return PlainText(original, range(len(original)))
    folded: dict[str, str] = {}
    pieces: list[str] = []
    origin: list[int] = []
    for index, character in enumerate(original):
        if character not in folded:
            folded[character] = _fold(character)
        piece = folded[character]
        pieces.append(piece)
        origin.extend([index] * len(piece))
    return PlainText("".join(pieces), origin)


def _fold(character: str) -> str:
    if character in _LINES:
        return "\t" if character == "\t" else "\n"
    category = unicodedata.category(character)
    if category in _INVISIBLE:
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category in _DASHES or character == "\u2212":
        return "_" if character == "_" else "-"
    if category == "Zs":
        return " "
    return unicodedata.normalize("NFKC", character)
