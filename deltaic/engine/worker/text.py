"""From bytes of tokens to text that may be sent: whole UTF-8 characters, nothing of a stop text."""

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one answer, growing. Tokens may cut characters and stop texts anywhere.

    What could still become a stop text is held back until it cannot. Bytes that are no UTF-8 become U+FFFD. The work is
    linear in the length of the answer times the number of stop texts, however long these are.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [_Stop(stop) for stop in stops]
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """The text that this piece completes; after a stop text was met, always empty."""
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """What was held back, at the end of an answer that met no stop text."""
        text = self._take(self._decoder.decode(b"", final=True))
        text, self._held = text + self._held, ""
        return text

    def _take(self, text: str) -> str:
        if self.stopped:
            return ""
        met = [(end, -len(stop.text)) for stop in self._stops if (end := stop.push(text))]
        whole = self._held + text
        if met:
            # The one that is complete first, so that it does not matter how tokens cut the text; the longest of these.
            end, length = min(met)
            self._held, self.stopped = "", True
            return whole[: len(whole) - len(text) + end + length]
        keep = max((stop.matched for stop in self._stops), default=0)
        ready, self._held = whole[: len(whole) - keep], whole[len(whole) - keep :]
        return ready


class _Stop:
    """Finds one stop text in a text that comes in pieces (Knuth, Morris, Pratt)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        """Characters at the end of what was pushed that begin the stop text."""
        self._shorter = [0] * len(text)
        matched = 0
        for index in range(1, len(text)):
            while matched and text[matched] != text[index]:
                matched = self._shorter[matched - 1]
            matched += text[matched] == text[index]
            self._shorter[index] = matched

    def push(self, text: str) -> int:
        """How many characters of this piece complete the stop text for the first time; 0 when they do not."""
        if not self.matched and self.text[0] not in text:
            return 0
        for index, character in enumerate(text):
            while self.matched and self.text[self.matched] != character:
                self.matched = self._shorter[self.matched - 1]
            self.matched += self.text[self.matched] == character
            if self.matched == len(self.text):
                return index + 1
        return 0


def overlap(text: str, beginning_of: str) -> int:
    """How many characters at the end of `text` begin the other text, without being all of it."""
    for length in range(min(len(text), len(beginning_of) - 1), 0, -1):
        if text.endswith(beginning_of[:length]):
            return length
    return 0
