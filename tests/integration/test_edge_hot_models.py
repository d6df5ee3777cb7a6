"""The hot set on real workers: a budget for one model, requests for two, and nobody is dropped."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from engine_asking import NEXT_REVISION, REVISION, ask

from deltaic.engine.host import ModelHost
from deltaic.engine.relay import generate
from deltaic.engine.settings import EngineSettings
from deltaic.names import RevisionName
from edge.errors import HotSetFull
from edge.hot.hot_set import HotSet, Patience
from edge.hot.needs import Needs

pytestmark = pytest.mark.model
SETTINGS = EngineSettings(slots=4, context_tokens=512, queue=24, threads=1)
PATIENCE = Patience(residency=0.5, collate=0.5, wait=60.0)


@dataclass
class Files:
    """Both revisions rest in one file."""

    model: Path

    def path(self, _hex: str) -> Path:
        return self.model

    def manifest(self, _hex: str) -> Any:
        return SimpleNamespace(size=self.model.stat().st_size)


@pytest.fixture
async def hot_set(tmp_path: Path, demo_model_path: Path) -> AsyncIterator[HotSet]:
    """With room for one and a half."""
    host = ModelHost(tmp_path / "run", SETTINGS, "edge@test", "edge")
    needs = Needs(SETTINGS)
    one = needs.of(demo_model_path, "smollm2", 0).ram
    made = HotSet(host, Files(demo_model_path), one * 3 // 2, needs=needs, patience=PATIENCE)  # type: ignore[arg-type]
    yield made
    await made.close()
    await host.close()


async def answered(hot_set: HotSet, revision: RevisionName) -> str:
    text = ""
    async with hot_set.load(revision) as leased:
        assert leased.revision == revision
        async for piece in generate(leased, ask("Count to five.", max_tokens=8), 60):
            text += piece.text
    return text


async def test_a_storm_for_two_models_of_which_one_fits_is_answered_whole_by_few_switches(hot_set: HotSet) -> None:
    starts: list[str] = []
    serve = hot_set._host.serve

    async def counted(key: str, revision: RevisionName, path: Path) -> float:
        starts.append(key)
        return await serve(key, revision, path)

    hot_set._host.serve = counted  # type: ignore[method-assign]
    requests = [answered(hot_set, (REVISION, NEXT_REVISION)[place % 2]) for place in range(24)]
    texts = await asyncio.gather(*requests)
    assert all(texts)
    assert len(set(texts)) == 1, "the same weights, the same answer"
    assert len(starts) == 2, "one batch each: twelve and twelve"
    assert len(hot_set.keys()) == 1
    assert hot_set.taken.ram <= hot_set.budget.ram


async def test_a_load_teaches_what_loads_cost(hot_set: HotSet, demo_model_path: Path) -> None:
    before = hot_set.costs.dump()
    await answered(hot_set, REVISION)
    (learned,) = hot_set.costs.dump()["own"]
    assert learned[0] == str(REVISION)
    assert learned[2] > 0
    assert hot_set.costs.dump()["bytes_per_second"] != before["bytes_per_second"]


async def test_while_the_only_room_is_in_use_who_does_not_wait_is_refused_and_loses_nothing(hot_set: HotSet) -> None:
    async with hot_set.load(REVISION):
        with pytest.raises(HotSetFull):
            async with hot_set.load(NEXT_REVISION, wait=0):
                pass
    assert await answered(hot_set, REVISION)
