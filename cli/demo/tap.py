"""A tap on a line between two nodes: forwards everything, remembers what went out, counts what came in.

The demo's device reaches its edge only through this tap, so that the claim "no sensitive byte left" is measured on the
wire and not read from a counter. gRPC on loopback is neither encrypted nor compressed here: a prompt that left would be
in these bytes as it was typed.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

_BLOCK = 1 << 16


class Tap:
    """Listens on loopback, forwards to `target` ("host:port"), keeps the bytes that went out."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._outgoing: list[bytearray] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.address = ""
        self.bytes_in = 0
        """Bytes that came back from the target."""

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator["Tap"]:
        """Forward until the context ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            server.close()
            for writer in self._writers:
                writer.close()
            await server.wait_closed()

    @property
    def bytes_out(self) -> int:
        return sum(len(seen) for seen in self._outgoing)

    def leaked(self, marks: Iterable[str]) -> int:
        """Bytes of these marks that went out."""
        return sum(len(mark) * bytes(seen).count(mark.encode()) for seen in self._outgoing for mark in marks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = bytearray()
        self._outgoing.append(seen)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._writers += (writer, far_writer)
        await asyncio.gather(_pour(reader, far_writer, seen.extend), _pour(far_reader, writer, self._count))
        for each in (writer, far_writer):
            each.close()

    def _count(self, block: bytes) -> None:
        self.bytes_in += len(block)


async def _pour(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_block: Callable[[bytes], object]
) -> None:
    with contextlib.suppress(OSError):  # one side went away
        while block := await reader.read(_BLOCK):
            on_block(block)
            writer.write(block)
            await writer.drain()
        writer.write_eof()
