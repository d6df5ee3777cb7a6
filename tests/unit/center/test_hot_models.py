"""The models that the center keeps loaded: one load for many, a budget, and who has to go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from center.errors import HotSetFull
from center.hot import HotModels
from center.records import Revision
from deltaic.engine.errors import WorkerFailed
from deltaic.names import RevisionName


class Host:
    """A model host without processes: records what is loaded, fails and waits as told."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.history: list[str] = []
        self.broken: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def serve(self, key: str, revision: RevisionName, path: Path) -> float:
        self.history.append(key)
        await self.gate.wait()
        if key in self.broken:
            raise WorkerFailed("it does not start")
        self.loaded.append(key)
        return 0.1

    @asynccontextmanager
    async def lease(self, key: str) -> AsyncIterator[str]:
        assert key in self.loaded
        yield key

    async def release(self, key: str) -> None:
        self.loaded.remove(key)

    async def close(self) -> None:
        self.loaded.clear()


class Shelf:
    """Counts the leases of files."""

    def __init__(self) -> None:
        self.leases = 0

    @asynccontextmanager
    async def lease(self, _manifest: object) -> AsyncIterator[Path]:
        self.leases += 1
        yield Path("model.gguf")
        self.leases -= 1


@pytest.fixture
def parts() -> SimpleNamespace:
    async def get(digest: object) -> object:
        return digest

    host, shelf = Host(), Shelf()
    manifests: Any = SimpleNamespace(get=get)
    hot = HotModels(host, shelf, manifests, 100)  # type: ignore[arg-type]
    return SimpleNamespace(host=host, shelf=shelf, hot=hot)


def revision(number: int, size: int = 40) -> Revision:
    return Revision(RevisionName("m", f"sha256:{number:064x}"), 10, size, 1)


def key(number: int) -> str:
    return str(revision(number).name)


async def use(hot: HotModels, number: int, size: int = 40) -> None:
    async with hot.lease(revision(number, size)):
        await asyncio.sleep(0)


async def test_a_stampede_loads_a_model_once(parts: SimpleNamespace) -> None:
    await asyncio.gather(*(use(parts.hot, 1) for _ in range(50)))
    await use(parts.hot, 1)
    assert parts.host.history == [key(1)]


async def test_the_longest_unused_goes_first_and_its_file_with_it(parts: SimpleNamespace) -> None:
    for number in (1, 2, 1, 3):
        await use(parts.hot, number)
    assert sorted(parts.host.loaded) == [key(1), key(3)]
    assert parts.shelf.leases == 2


async def test_as_many_go_as_the_new_one_needs(parts: SimpleNamespace) -> None:
    for number in (1, 2):
        await use(parts.hot, number)
    await use(parts.hot, 3, 90)
    assert parts.host.loaded == [key(3)]


async def test_a_model_that_answers_is_never_the_one_to_go(parts: SimpleNamespace) -> None:
    async with parts.hot.lease(revision(1)):
        for number in (2, 3, 4):
            await use(parts.hot, number)
        assert key(1) in parts.host.loaded


async def test_a_new_model_waits_until_a_busy_one_is_idle(parts: SimpleNamespace) -> None:
    async with parts.hot.lease(revision(1, 90)):
        waiting = asyncio.create_task(use(parts.hot, 2, 90))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        assert parts.host.loaded == [key(1)]
    async with asyncio.timeout(5):
        await waiting
    assert parts.host.loaded == [key(2)]


async def test_waiting_for_room_ends(parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("center.hot.ROOM_TIMEOUT", 0.02)
    async with parts.hot.lease(revision(1, 90)):
        with pytest.raises(HotSetFull, match="were busy"):
            await use(parts.hot, 2, 90)
    await use(parts.hot, 2, 90)


async def test_a_model_beyond_the_budget_is_refused_and_moves_nobody(parts: SimpleNamespace) -> None:
    await use(parts.hot, 1)
    with pytest.raises(HotSetFull, match="may be hot"):
        await use(parts.hot, 2, 101)
    assert parts.host.loaded == [key(1)]


async def test_a_failed_load_is_told_to_all_who_waited_and_tried_again_later(parts: SimpleNamespace) -> None:
    parts.host.broken.add(key(1))
    results = await asyncio.gather(*(use(parts.hot, 1) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, WorkerFailed) for result in results)
    assert parts.host.history == [key(1)]
    assert parts.shelf.leases == 0
    parts.host.broken.clear()
    await use(parts.hot, 1)
    assert parts.host.loaded == [key(1)]


async def test_who_leaves_while_a_model_loads_takes_it_from_nobody(parts: SimpleNamespace) -> None:
    parts.host.gate.clear()
    leaving, staying = (asyncio.create_task(use(parts.hot, 1)) for _ in range(2))
    await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.sleep(0)
    parts.host.gate.set()
    await staying
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert parts.host.history == [key(1)]


async def test_a_model_that_nobody_waited_for_in_the_end_makes_room_as_soon_as_it_is_loaded(
    parts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("center.hot.ROOM_TIMEOUT", 2.0)
    parts.host.gate.clear()
    leaving = asyncio.create_task(use(parts.hot, 1, 90))
    await asyncio.sleep(0.01)
    leaving.cancel()
    waiting = asyncio.create_task(use(parts.hot, 2, 90))
    await asyncio.sleep(0.01)
    parts.host.gate.set()
    await waiting
    assert parts.host.loaded == [key(2)]


async def test_closing_stops_what_is_loading_and_lets_every_file_go(parts: SimpleNamespace) -> None:
    await use(parts.hot, 1)
    parts.host.gate.clear()
    loading = asyncio.create_task(use(parts.hot, 2))
    await asyncio.sleep(0.01)
    await parts.hot.close()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert parts.host.loaded == []
    assert parts.shelf.leases == 0
