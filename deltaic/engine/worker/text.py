"""From bytes of tokens to text that may be sent: whole UTF-8 characters, nothing of a stop text."""

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one answer, growing. Tokens may cut characters and stop texts anywhere.

    What could still become a stop text is held back until it cannot. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
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
        self._held += text
        met = [(at + len(stop), at) for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if met:
            # The one that is complete first, so that it does not matter how tokens cut the text.
            before, self._held, self.stopped = self._held[: min(met)[1]], "", True
            return before
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        ready, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return ready


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
