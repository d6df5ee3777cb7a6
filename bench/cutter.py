"""A line that is cut again and again: cutter.py TARGET_PORT CUTS SMALLEST LARGEST SEED

Prints its port, passes everything on to TARGET_PORT of 127.0.0.1, and drops every connection each time that a random
number of bytes, between SMALLEST and LARGEST, has come down; after so many CUTS it only passes on. At SIGTERM it prints
what happened as JSON and ends.
"""

import asyncio
import json
import random
import signal
import sys
from dataclasses import asdict, dataclass

_READ_BYTES = 64 * 1024


@dataclass
class Facts:
    cuts: int = 0
    connections: int = 0
    down_bytes: int = 0
    """Bytes that were passed on to the receiver, headers and what was lost on the way included."""


class Cutter:
    """Counts bytes over all connections, as a real line would be cut for all of them."""

    def __init__(self, target: int, cuts: int, smallest: int, largest: int, seed: int) -> None:
        self.facts = Facts()
        self._target = target
        self._cuts = cuts
        self._range = (smallest, largest)
        self._dice = random.Random(seed)
        self._next = self._dice.randint(*self._range)
        self._open: set[asyncio.WriteTransport] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.facts.connections += 1
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        ends = {writer.transport, there_writer.transport}
        self._open |= ends
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, there_writer, down=False))
                pumps.create_task(self._pump(there_reader, writer, down=True))
        except* OSError:
            pass
        finally:
            self._open -= ends
            for each in ends:
                each.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, down: bool) -> None:
        while data := await reader.read(_READ_BYTES):
            if down:
                data = data[: self._room()]
            writer.write(data)
            await writer.drain()
            if down:
                self._passed(len(data))
        raise ConnectionResetError("one side went away")

    def _room(self) -> int | None:
        return None if self.facts.cuts >= self._cuts else max(1, self._next - self.facts.down_bytes)

    def _passed(self, count: int) -> None:
        self.facts.down_bytes += count
        if self.facts.cuts < self._cuts and self.facts.down_bytes >= self._next:
            self.facts.cuts += 1
            self._next = self.facts.down_bytes + self._dice.randint(*self._range)
            for each in self._open:
                each.abort()


async def main(target: int, cuts: int, smallest: int, largest: int, seed: int) -> None:
    cutter = Cutter(target, cuts, smallest, largest, seed)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    server = await asyncio.start_server(cutter.connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await ended.wait()
    server.close()
    print(json.dumps(asdict(cutter.facts)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
