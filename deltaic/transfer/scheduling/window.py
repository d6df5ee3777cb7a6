"""How many streams one source gets: more while more of them bring more, fewer when its line fails."""

_START = 4
_WORTH_IT = 0.4
"""Of what one stream more would bring where the line has room."""
_FIRST_REST = 8
_LONGEST_REST = 64


class Window:
    """A number of streams that climbs one at a time and stays where climbing stops to help."""

    def __init__(self, limit: int) -> None:
        """`limit` bounds the memory: each stream holds one blob and a frame."""
        self._limit = limit
        self.size = min(_START, limit)
        self._before = 0.0
        """Goodput before the streams grew by the last one; 0 when nothing is being tried."""
        self._rest = 0
        self._next_rest = _FIRST_REST

    def measured(self, goodput: float) -> None:
        """Bytes a second of a stretch of time in which all streams were busy."""
        if self._before:
            if goodput >= self._before * (1.0 + _WORTH_IT / (self.size - 1)):
                self._next_rest = _FIRST_REST
                self._grow(goodput)
            else:
                self._give_back()
        elif self._rest:
            self._rest -= 1
        else:
            self._grow(goodput)

    def cut(self) -> None:
        """The line failed: fewer streams share the bytes that come before it fails again."""
        self.size = max(1, self.size // 2)
        self._before = 0.0
        self._rest = _FIRST_REST

    def _grow(self, goodput: float) -> None:
        self._before = 0.0
        if self.size < self._limit:
            self._before = goodput
            self.size += 1

    def _give_back(self) -> None:
        """The last stream brought nothing: do without it, and wait twice as long before the next trial."""
        self.size -= 1
        self._before = 0.0
        self._rest = self._next_rest
        self._next_rest = min(_LONGEST_REST, 2 * self._next_rest)
