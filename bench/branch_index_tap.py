"""A tap before the index of a branch: it counts round trips, goes away as a server does, or says nothing any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from branch_turns import Turns

_READ_BYTES = 16 * 1024


class IndexTap:
    """Listens at the Unix socket `front`, for the server at `behind`."""

    def __init__(self, front: Path, behind: Path) -> None:
        self._front, self._behind = front, behind
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._passing = asyncio.Event()
        self._seen: list[Turns] = []

    @property
    def turns(self) -> int:
        """Round trips that clients have begun, over all connections."""
        return sum(each.count for each in self._seen)

    @property
    def reads(self) -> int:
        """Those on connections that never began a transaction: what an edge shows of itself goes by transactions."""
        return sum(each.count for each in self._seen if not each.transacts)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["IndexTap"]:
        """Until the context ends. Raises OSError."""
        await self.bring_back()
        try:
            yield self
        finally:
            self.take_away()

    async def bring_back(self) -> None:
        """Listen, and pass everything on."""
        if self._server is None:
            self._front.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self._front)
        self._passing.set()

    def take_away(self) -> None:
        """Refuse connections and drop those that there are, as when the server has died."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    def stall(self) -> None:
        """Take what is said and pass nothing on, as when the server hangs."""
        self._passing.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_unix_connection(self._behind)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, there_writer}
        self._open |= ends
        turns = Turns()
        self._seen.append(turns)

        async def pour(source: asyncio.StreamReader, target: asyncio.StreamWriter, *, asks: bool) -> None:
            with suppress(OSError):
                while data := await source.read(_READ_BYTES):
                    turns.saw(data, asks=asks)
                    await self._passing.wait()
                    target.write(data)
                    await target.drain()
            target.close()

        try:
            await asyncio.gather(pour(reader, there_writer, asks=True), pour(there_reader, writer, asks=False))
        finally:
            self._open -= ends
            for each in ends:
                each.transport.abort()
