"""A short storm of kills over a branch of two edges; `make storm` lets a long one pass."""

from pathlib import Path

import pytest
from storm import storm
from storm_asking import QUESTIONS

pytestmark = pytest.mark.model

FEW = (QUESTIONS[0], QUESTIONS[3])


@pytest.mark.timeout(240)
async def test_edge_index_and_center_killed_in_turn_under_load_lose_nothing_and_say_nothing_wrong(
    tmp_path: Path, demo_model_path: Path
) -> None:
    found = await storm(tmp_path, 20.0, pause=(1.0, 2.5), questions=FEW)
    assert {"edge1", "index", "center"} <= found.killed.keys()
    assert sum(found.tally.answered.values()) > 5, "it went on answering"
    assert found.tally.wrong == []
    assert found.tally.untyped == [], "every failure says that one may come again, and when or how"
    assert found.after == [], "when all is quiet, every edge answers everything right"
    assert found.damaged == [], "every verified byte is still there"
