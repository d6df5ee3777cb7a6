"""Devices of a branch whose center is gone for good: they get models, deltas and news from their edge alone."""

from pathlib import Path

import pytest
from center_node import running_center
from delta_models import following
from edge_node import ENGINE, running_edge, until
from line import Line
from test_device_fleet import running_device

from deltaic.v1 import inference_pb2, registry_pb2

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]
NOBODY = "127.0.0.1:9"


async def test_devices_live_from_an_edge_that_starts_and_runs_without_a_center(
    tmp_path: Path, demo_model_path: Path
) -> None:
    tuned = demo_model_path.with_name("smollm2-branch-assistant.Q4_1.gguf")
    # The center makes no deltas, so the edge can have none from there.
    async with running_center(tmp_path / "center", engine=ENGINE, deltas_bytes=0) as center:
        one, two = [await center.upload(path) for path in (demo_model_path, tuned)]
        names = [(await center.publish(each.digest)).name for each in (one, two)]
        await center.move(names[0])
        async with running_edge(tmp_path / "edge", center.center.address, "m/stable") as edge:
            await until(lambda: edge.serves(names[0]), 120)
            async with following(tmp_path / "known", f"127.0.0.1:{edge.edge.port}") as known:
                await known.serves(one)
            await center.move(names[1])
            await until(lambda: edge.serves(names[1]), 120)

    async with (
        running_edge(tmp_path / "edge", NOBODY, "m/stable") as edge,
        Line(edge.edge.port) as line,
    ):
        assert await edge.serving(""), "it takes requests as soon as it has started"
        async with following(tmp_path / "known", f"127.0.0.1:{line.port}") as known:
            await known.serves(two, 120)
            assert known.content(two) == tuned.read_bytes()
            moved = line.down_bytes
        assert moved < 0.2 * two.size, "on the wire, whatever nodes say"

        async with running_device(tmp_path / "new", line.port) as new:
            await until(lambda: new.serves(names[1]), 120)
            _, completion = await new.ask("models/m", sensitivity=inference_pb2.SENSITIVITY_SENSITIVE)
        assert (completion.answered_by, completion.revision) == (inference_pb2.NODE_ROLE_DEVICE, names[1])
        assert line.down_bytes - moved > 0.5 * two.size, "it had nothing, and got the whole model"

        watch = registry_pb2.WatchChannelsRequest(names=["models/m/channels/stable"])
        async for news in edge.registry.WatchChannels(watch, timeout=10):
            assert news.channel.revision.name == names[1]
            break
