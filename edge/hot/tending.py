"""What the hot set does between requests: load what is pinned or likely, and remember for a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from edge.hot.hot_set import HotSet
from edge.hot.remembered import NAME, Remembered

SAVE_SECONDS = 300.0


@asynccontextmanager
async def tended(hot_set: HotSet, folder: Path, every: float) -> AsyncIterator[None]:
    """Know what an earlier run knew, look every `every` seconds until the context ends, and keep what was learned."""
    remembered = Remembered(folder / NAME, hot_set.costs, hot_set.rates)
    await asyncio.to_thread(remembered.load)
    tasks = [asyncio.create_task(_prefetching(hot_set, every)), asyncio.create_task(_saving(remembered))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(remembered.save, remembered.taken())


async def _prefetching(hot_set: HotSet, every: float) -> None:
    while every > 0:
        await hot_set.prefetch()
        await asyncio.sleep(every)


async def _saving(remembered: Remembered) -> None:
    while True:
        await asyncio.sleep(SAVE_SECONDS)
        await asyncio.to_thread(remembered.save, remembered.taken())
