"""A line between two nodes that tests can slow, cut, bend and listen to: a TCP proxy on loopback.

It understands just enough of HTTP/2 framing to bend a byte in the middle of a payload and never in a header, so that
what a test asks for is what happens.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Self

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_BIG_PAYLOAD = 4096
_READ_BYTES = 64 * 1024


@dataclass
class Frames:
    """Follows the HTTP/2 frames of one direction and marks which bytes are payload of DATA frames."""

    skip: int
    header: bytearray = field(default_factory=bytearray)
    left: int = 0
    length: int = 0
    is_data: bool = False

    def payloads(self, data: bytes) -> list[tuple[int, int, int]]:
        """(start, end, position inside its frame) of each stretch of DATA payload in `data`."""
        found, at = [], 0
        while at < len(data):
            if self.skip:
                step = min(self.skip, len(data) - at)
                self.skip -= step
            elif self.left:
                step = min(self.left, len(data) - at)
                if self.is_data:
                    found.append((at, at + step, self.length - self.left))
                self.left -= step
            else:
                step = min(9 - len(self.header), len(data) - at)
                self._read_header(data[at : at + step])
            at += step
        return found

    def _read_header(self, data: bytes) -> None:
        self.header += data
        if len(self.header) == 9:
            self.length = self.left = int.from_bytes(self.header[:3], "big")
            self.is_data = self.header[3] == 0
            self.header.clear()


class Line:
    """`async with Line(port) as line:` listens on `line.port` and passes everything on to `port` of this machine.

    "Down" is what the server sends, "up" what the client sends. All settings may be changed while it runs.
    """

    def __init__(
        self, target_port: int, *, latency: float = 0.0, bytes_per_second: float = 0.0, listen: bool = False
    ) -> None:
        """`latency` in seconds each way; `bytes_per_second` 0 is unlimited; `listen` keeps what passes for `seen`."""
        self.target_port = target_port
        self.latency = latency
        self.bytes_per_second = bytes_per_second
        self.up_bytes = 0
        self.down_bytes = 0
        self.connections = 0
        self.cuts = 0
        self.bent = 0
        self.is_down = False
        self.port = 0
        self._cut_at: tuple[bool, int] | None = None
        self._bend_down = 0
        self._bend_up = 0
        self._bend_at: list[int] = []
        self._heard: list[bytearray] | None = [] if listen else None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._free_at = 0.0
        self.on_cut: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Drop every connection now; new ones are let through."""
        self.cuts += 1
        self._cut_at = None
        for writer in list(self._writers):
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()  # what a dead connection had still to say is not to be counted
        self.on_cut()

    def cut_after(self, count: int, *, up: bool = False) -> None:
        """Drop every connection once this many more bytes have come down, or gone up."""
        self._cut_at = (up, count + (self.up_bytes if up else self.down_bytes))

    def take_down(self) -> None:
        """Drop every connection and refuse new ones, until `bring_back`."""
        self.is_down = True
        self.cut()

    def bring_back(self) -> None:
        self.is_down = False

    def bend(self, *, down: int = 0, up: int = 0) -> None:
        """Flip one bit inside each of the next so many big payloads of that direction."""
        self._bend_down += down
        self._bend_up += up

    def bend_anywhere(self, down_positions: Iterable[int]) -> None:
        """Flip one bit at each of these counts of bytes down, whatever is there: payload, frame or header."""
        self._bend_at = sorted(down_positions, reverse=True)

    def seen(self, pattern: bytes) -> bool:
        """Whether these bytes passed, either way; needs `listen=True`. A payload split over frames is put together."""
        assert self._heard is not None, "this line does not listen"
        return any(pattern in stream for stream in self._heard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_down:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        self.connections += 1
        self._writers |= {writer, there_writer}
        up = asyncio.create_task(self._pump(reader, there_writer, up=True))
        down = asyncio.create_task(self._pump(there_reader, writer, up=False))
        self._tasks |= {up, down}
        await asyncio.wait({up, down})
        self._tasks -= {up, down}
        for each in (writer, there_writer):
            self._writers.discard(each)
            each.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        frames = Frames(len(_PREFACE) if up else 0)
        heard = self._hear()
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)
        sending = asyncio.create_task(self._send(queue, writer))
        try:
            while data := await reader.read(self._read_size()):
                await self._pace(len(data))
                data = self._pass(data, frames, heard, up=up)
                await queue.put((asyncio.get_running_loop().time() + self.latency, data))
            await queue.put((0.0, b""))
            await sending
        except OSError:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self, queue: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
        while True:
            due, data = await queue.get()
            if (wait := due - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                writer.close()
                return
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                return

    def _pass(self, data: bytes, frames: Frames, heard: "list[bytearray]", *, up: bool) -> bytes:
        payloads = frames.payloads(data)
        if heard:
            whole, payload = heard
            whole.extend(data)
            for start, end, _ in payloads:
                payload.extend(data[start:end])
        if up:
            self.up_bytes += len(data)
            data, self._bend_up = self._bent(data, payloads, self._bend_up)
        else:
            data, self._bend_down = self._bent(data, payloads, self._bend_down)
            data = self._bent_anywhere(data)
            self.down_bytes += len(data)
        if self._cut_at is not None and self._cut_at[0] == up:
            passed = self.up_bytes if up else self.down_bytes
            if passed >= self._cut_at[1]:
                self.cut()
        return data

    def _bent(self, data: bytes, payloads: list[tuple[int, int, int]], left: int) -> tuple[bytes, int]:
        bent = bytearray(data)
        for start, end, position in payloads:
            # The first bytes of a frame may be the gRPC and protobuf headers of a message.
            if left and end - start >= _BIG_PAYLOAD and position + (end - start) > 512:
                bent[end - 256] ^= 0x10
                left -= 1
                self.bent += 1
        return bytes(bent), left

    def _bent_anywhere(self, data: bytes) -> bytes:
        bent = bytearray(data)
        while self._bend_at and self._bend_at[-1] < self.down_bytes + len(data):
            bent[max(0, self._bend_at.pop() - self.down_bytes)] ^= 0x04
            self.bent += 1
        return bytes(bent)

    def _hear(self) -> list[bytearray]:
        if self._heard is None:
            return []
        streams = [bytearray(), bytearray()]
        self._heard += streams
        return streams

    def _read_size(self) -> int:
        if not self.bytes_per_second:
            return _READ_BYTES
        return max(1024, min(_READ_BYTES, int(self.bytes_per_second / 50)))

    async def _pace(self, size: int) -> None:
        """All connections share the line."""
        if not self.bytes_per_second:
            return
        now = asyncio.get_running_loop().time()
        self._free_at = max(self._free_at, now) + size / self.bytes_per_second
        await asyncio.sleep(self._free_at - now)
