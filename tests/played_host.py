"""Stands in for a ModelHost and the files of an edge: the same calls, workers that are only names and sizes."""

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

from deltaic.engine.errors import NotServed
from deltaic.engine.host import Served
from deltaic.engine.relay import LeasedWorker
from deltaic.names import RevisionName


def revision(number: int) -> RevisionName:
    return RevisionName("m", f"sha256:{number:064x}")


def number_of(name: RevisionName) -> int:
    return int(name.hex, 16)


class PlayedHost:
    """Fails the test when a model in use is evicted.

    `sizes` in bytes, by number; `on_start` and `on_end` hear the numbers of workers.
    """

    def __init__(self, sizes, *, on_start=lambda _number: None, on_end=lambda _number: None) -> None:
        self.sizes = sizes
        self.on_start, self.on_end = on_start, on_end
        self.keys: dict[str, RevisionName] = {}
        self.starts: list[int] = []
        self.leases: Counter[RevisionName] = Counter()

    async def serve(self, key, name, _path):
        if name not in self.keys.values():
            self.on_start(number_of(name))
            self.starts.append(number_of(name))
            await asyncio.sleep(0)
        self.keys[key] = name
        return 0.1

    async def release(self, key):
        name = self.keys.pop(key)
        if name not in self.keys.values():
            assert not self.leases[name], "a model in use was evicted"
            self.on_end(number_of(name))
        await asyncio.sleep(0)

    def serving(self):
        return [Served(key, name, 2048, self.sizes[number_of(name)]) for key, name in self.keys.items()]

    @asynccontextmanager
    async def lease(self, key):
        found = self.keys.get(str(key)) or next((one for one in self.keys.values() if str(one) == str(key)), None)
        if found is None:
            raise NotServed(f"{key} is not served")
        self.leases[found] += 1
        try:
            yield LeasedWorker(None, found)
        finally:
            self.leases[found] -= 1


class PlayedFiles:
    def __init__(self, sizes) -> None:
        self._sizes = sizes

    def path(self, hex_):
        return Path("/nowhere") / hex_ if int(hex_, 16) in self._sizes else None

    def manifest(self, hex_):
        return SimpleNamespace(size=self._sizes[int(hex_, 16)]) if int(hex_, 16) in self._sizes else None
