"""Edges of one branch that fetch from each other, as they are configured and wired."""

import time
from pathlib import Path

import pytest
from center_node import running_center
from edge_node import ENGINE, running_edge, until
from line import Line

pytestmark = pytest.mark.model


async def test_a_second_edge_gets_the_model_from_the_first_although_the_line_to_the_center_is_slow(
    tmp_path: Path, demo_model_path: Path
) -> None:
    async with running_center(tmp_path / "center", engine=ENGINE) as center:
        manifest = await center.upload(demo_model_path)
        revision = await center.publish(manifest.digest, "assistant")
        await center.move(revision.name)
        address = center.center.address
        async with running_edge(tmp_path / "one", address, "assistant/stable", name="edge@one") as one:
            await until(lambda: one.serves(revision.name))
            peers = [f"127.0.0.1:{one.edge.port}", "127.0.0.1:1"]
            async with (
                Line(int(address.rpartition(":")[2]), bytes_per_second=1_000_000) as slow,
                running_edge(
                    tmp_path / "two",
                    f"127.0.0.1:{slow.port}",
                    "assistant/stable",
                    name="edge@two",
                    peers=peers,
                    fetch_rate="60MB",
                    fetch_streams=4,
                ) as two,
            ):
                began = time.monotonic()
                await until(lambda: two.serves(revision.name))
                seconds = time.monotonic() - began
                state = await two.own_state()
                assert slow.down_bytes < 0.5 * manifest.size, "most came from the edge beside it"
    assert state.progress.fetched_bytes > 0.9 * manifest.size
    assert seconds > 0.8, "the limit held: 98 MB at 60 MB a second"
