"""The line between a center and a branch, as a TCP proxy on loopback: it counts, it can be slow, and it can be cut.

Linux shapes with tbf or netem inside a network namespace, which needs root and modules that not every kernel has; a
proxy needs neither, and what it counts is what the line's two ends have given it. All connections share its rate.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_READ_BYTES = 16 * 1024


class BranchLine:
    """`async with BranchLine(port).listening() as line:` passes everything on to `port` of 127.0.0.1."""

    def __init__(self, target: int, *, bits_per_second: float = 0.0) -> None:
        """A rate of 0 is unlimited."""
        self._target = target
        self._bytes_per_second = bits_per_second / 8
        self._free_at = 0.0
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self.address = ""
        self.down_bytes = 0
        """Bytes that came from the center, headers and everything else included."""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["BranchLine"]:
        """Until the context ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self._drop()
            await asyncio.gather(*self._serving, return_exceptions=True)
            await asyncio.sleep(0)  # an aborted transport closes its socket in the loop's next turn

    def cut(self) -> None:
        """Drop every connection, and refuse new ones until `mend`."""
        self._is_cut = True
        self._drop()

    def mend(self) -> None:
        self._is_cut = False

    def _drop(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a server serves in tasks"
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:  # the center is gone: so it is for the branch
            writer.transport.abort()
            return
        ends = {writer, there_writer}
        self._open |= ends
        try:
            await asyncio.gather(
                self._pour(reader, there_writer, down=False), self._pour(there_reader, writer, down=True)
            )
        finally:
            self._open -= ends
            for each in ends:
                each.transport.abort()

    async def _pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(_READ_BYTES):
                if down:
                    self.down_bytes += len(data)
                    await self._pace(len(data))
                writer.write(data)
                await writer.drain()
        writer.close()

    async def _pace(self, size: int) -> None:
        if self._bytes_per_second:
            now = asyncio.get_running_loop().time()
            self._free_at = max(self._free_at, now) + size / self._bytes_per_second
            await asyncio.sleep(self._free_at - now)
