"""The inside of a payload: numbers and strings of bytes in a row, read back without believing any length."""

from deltaic.weights.digest import Buffer
from deltaic.weights.errors import BadDelta

_MAX_NUMBER_BITS = 63


class PayloadWriter:
    """Appends; `data` is what was written."""

    def __init__(self) -> None:
        self.data = bytearray()

    def number(self, value: int) -> None:
        """A non-negative integer, seven bits a byte, least significant first (LEB128)."""
        while value > 0x7F:
            self.data.append(value & 0x7F | 0x80)
            value >>= 7
        self.data.append(value)

    def fixed(self, data: Buffer) -> None:
        """Bytes whose number the reader knows."""
        self.data += data

    def counted(self, data: Buffer) -> None:
        """Bytes after their number."""
        self.number(len(data))
        self.data += data


class PayloadReader:
    """Reads what a PayloadWriter wrote. Every method raises BadDelta where the payload ends too soon."""

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data)
        self._position = 0

    def number(self, limit: int) -> int:
        """An integer of at most `limit`."""
        value = shift = 0
        while shift <= _MAX_NUMBER_BITS:
            byte = self.fixed(1)[0]
            value |= (byte & 0x7F) << shift
            if byte <= 0x7F:
                break
            shift += 7
        if value > limit:
            raise BadDelta(f"a payload says {value:,} where at most {limit:,} is possible")
        return value

    def fixed(self, count: int) -> memoryview:
        if count > len(self._data) - self._position:
            raise BadDelta("a payload ends too soon")
        self._position += count
        return self._data[self._position - count : self._position]

    def counted(self) -> memoryview:
        return self.fixed(self.number(len(self._data)))

    def finish(self) -> None:
        """Nothing may follow."""
        if self._position != len(self._data):
            raise BadDelta("a payload is followed by bytes that mean nothing")
