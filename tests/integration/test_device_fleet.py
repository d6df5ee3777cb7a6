"""A device below a real edge below a real center, with listening lines between them."""

import secrets
import string
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from center_node import CenterNode, running_center
from edge_node import ENGINE, EdgeClient, EdgeNode, running_edge, until
from line import Line

from deltaic.errors import Code, DeltaicError
from deltaic.rpc.channel import open_channel
from deltaic.v1 import fleet_pb2, inference_pb2
from device.app import Device
from device.config import DeviceSettings

pytestmark = pytest.mark.model

CHANNEL = "models/m/channels/stable"
SENSITIVE = inference_pb2.SENSITIVITY_SENSITIVE


@asynccontextmanager
async def running_device(folder: Path, upstream_port: int) -> AsyncIterator[EdgeClient]:
    """The device as its applications see it: they speak the contract that an edge's clients speak."""
    settings = DeviceSettings(
        name="device@test",
        listen="127.0.0.1:0",
        data_dir=folder,
        upstream=f"127.0.0.1:{upstream_port}",
        channels=[CHANNEL],
        engine=ENGINE,
        report_seconds=0.3,
    )
    async with (
        Device(settings).running() as device,
        open_channel(f"127.0.0.1:{device.port}", node="app@test") as channel,
    ):
        yield EdgeClient(channel)


def saying(text: str) -> dict[str, Any]:
    return {"messages": [inference_pb2.ChatMessage(role="user", content=text)], "max_tokens": 4}


async def publish(center: CenterNode, path: Path) -> str:
    """The demo model under two names: one that everybody follows, one that stays at the center."""
    manifest = await center.upload(path)
    for model in ("m", "rare"):
        revision = await center.publish(manifest.digest, model)
        await center.move(revision.name)
    return str((await center.publish(manifest.digest)).name)


async def last_report(edge: EdgeNode) -> fleet_pb2.NodeReport:
    nodes = (await edge.fleet.ListNodes(fleet_pb2.ListNodesRequest(), timeout=10)).nodes
    return next(node for node in nodes if node.node == "device@test")


async def test_each_request_is_answered_where_it_may_be_seen(tmp_path: Path, demo_model_path: Path) -> None:
    letters = string.ascii_lowercase  # digits might look like somebody's number
    secret, public = ("canary" + "".join(secrets.choice(letters) for _ in range(20)) for _ in range(2))
    async with running_center(tmp_path / "center", engine=ENGINE) as center:
        revision = await publish(center, demo_model_path)
        center_port = int(center.center.address.rpartition(":")[2])
        async with (
            Line(center_port, listen=True) as above_edge,
            running_edge(tmp_path / "edge", f"127.0.0.1:{above_edge.port}", CHANNEL) as edge,
            Line(edge.edge.port, listen=True) as above_device,
            running_device(tmp_path / "device", above_device.port) as device,
        ):
            await until(lambda: device.serves(revision))

            _, completion = await device.ask("models/m", **saying(secret), sensitivity=SENSITIVE)
            assert (completion.answered_by, completion.node) == (inference_pb2.NODE_ROLE_DEVICE, "device@test")
            assert completion.revision == revision
            refused = await device.refusal("models/rare", **saying(secret), sensitivity=SENSITIVE)
            assert refused.reason == "SENSITIVE_NEEDS_LOCAL_MODEL"
            refused = await device.refusal("models/rare", **saying(f"{secret} 4111 1111 1111 1111"))
            assert "CARD_NUMBER" in refused.metadata["kinds"].split(",")

            _, completion = await device.ask("models/rare", **saying(public))
            assert completion.answered_by == inference_pb2.NODE_ROLE_CENTER
            for line in (above_device, above_edge):
                assert line.seen(public.encode()), "the lines hear what is said"
                assert not line.seen(secret.encode())

            async def reported() -> bool:
                counts = (await last_report(edge)).requests
                return (counts.answered, counts.forwarded, counts.kept_local) == (1, 1, 3)

            await until(reported, 20)

            above_device.take_down()
            _, completion = await device.ask("models/m", **saying("hello"))
            assert completion.answered_by == inference_pb2.NODE_ROLE_DEVICE
            assert (await device.refusal("models/rare", **saying("hello"))).code is Code.UNAVAILABLE
            above_device.bring_back()

            async def asks_above_again() -> bool:
                try:
                    return bool(await device.ask("models/rare", **saying("hello")))
                except DeltaicError:
                    return False

            await until(asks_above_again, 20)
