"""What a node that serves deltas is given: the shelf where they rest, their maker, and the planner that offers them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from deltaic.store.delta_records import Pair
from deltaic.store.delta_shelf import DeltaShelf
from deltaic.transfer.deltas.likeness import WORTH_BYTES, bases
from deltaic.transfer.deltas.making import DeltaMaker, FileOf
from deltaic.transfer.planning import Limits, PricedPlan, price_update
from deltaic.transfer.threads import in_thread
from deltaic.weights.manifest import Manifest

MOST_WAIT_SECONDS = 3600.0
_MOST_BASES = 3


class DeltaService:
    """Lives on the event loop. Enter `running()` once; nothing is made outside of it."""

    def __init__(self, folder: Path, budget_bytes: int, file_of: FileOf, *, jobs: int) -> None:
        """Blocks: opens the shelf. A budget of 0 bytes makes no deltas. Raises DiskFull, DiskFailed."""
        self.shelf = DeltaShelf(folder, budget_bytes)
        self.maker = DeltaMaker(self.shelf, file_of, jobs=jobs)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["DeltaService"]:
        """Make deltas until the block ends."""
        async with self.maker.running():
            yield self

    def want(self, sources: Sequence[Manifest], target: Manifest) -> None:
        """Make deltas in the background, in this order."""
        if self.shelf.budget_bytes:
            for source in sources:
                self.maker.want(source, target)

    async def plan(self, want: Manifest, have: Sequence[Manifest], limits: Limits | None) -> PricedPlan:
        """The cheapest way to `want`. Of `have`, where two would do as well to begin with, the first is taken.

        For a node that states its limits a delta is made when there is none, while it waits or after it has gone.
        """
        plan = await in_thread(price_update, want, have, self.shelf.deltas(), limits)
        if limits is not None and self.shelf.budget_bytes and plan.chunks.fetch_bytes >= WORTH_BYTES:
            plan = await self._with_a_new_one(want, have, limits, plan)
        for step in plan.deltas:
            assert step.source is not None, "a delta is from something"
            self.shelf.use(Pair(step.source, step.target))
        return plan

    async def _with_a_new_one(
        self, want: Manifest, have: Sequence[Manifest], limits: Limits, plan: PricedPlan
    ) -> PricedPlan:
        candidates = (await in_thread(bases, want, have))[:_MOST_BASES]
        if plan.deltas:
            if len(plan.deltas) > 1 and candidates:
                self.maker.want(candidates[0], want)  # for the next one who asks
            return plan
        loop = asyncio.get_running_loop()
        until = loop.time() + min(limits.wait_seconds, MOST_WAIT_SECONDS)
        for base in candidates:
            if await self.maker.make(base, want, until - loop.time()) is not None:
                return await in_thread(price_update, want, have, self.shelf.deltas(), limits)
            if self.maker.may_try(base, want):
                return plan  # it is in the making
        return plan
