"""A node whose neighbour has the revision: it takes the neighbour's delta, and the neighbour's chunks without one."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from center_node import CenterNode, running_center
from delta_models import Beside, FollowingNode, accounts_for, following
from line import Line

from deltaic.rpc.channel import open_channel
from deltaic.transfer.errors import LineLost
from deltaic.transfer.source import GrpcSource, Piece, Source, WantedRange
from deltaic.transfer.supplier import Supplier
from deltaic.v1 import registry_pb2
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

T = 60.0
Versions = list[tuple[Path, Manifest]]


@pytest.fixture(scope="session")
def versions(fine_tunes: list[Path]) -> Versions:
    return [(path, Manifest.build(path)) for path in fine_tunes[:2]]


@dataclass
class Place:
    """A node at the first version, its upstream that has no deltas, the line to that, and who is beside it."""

    node: FollowingNode
    upstream: CenterNode
    line: Line
    beside: Beside
    neighbour: CenterNode
    names: list[str]
    channel: grpc.aio.Channel
    """To the neighbour."""

    def near(self, source: Source | None = None) -> None:
        """The neighbour has the revision from now on."""
        self.beside.near = [Supplier(self.channel, source or GrpcSource(self.channel, "edge beside"))]

    async def make_delta(self) -> None:
        """What the neighbour came by."""
        limits = registry_pb2.NodeLimits(wait_seconds=T)
        request = registry_pb2.PlanUpdateRequest(want=self.names[1], have=self.names[:1], limits=limits)
        await self.neighbour.registry.PlanUpdate(request, timeout=T)


@asynccontextmanager
async def placed(folder: Path, versions: Versions) -> AsyncIterator[Place]:
    beside = Beside()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(running_center(folder / "upstream", deltas_bytes=0))
        neighbour = await stack.enter_async_context(running_center(folder / "neighbour"))
        names = [(await upstream.publish_file(path, "m")).name for path, _ in versions]
        for path, _ in versions:
            await neighbour.publish_file(path, "m")
        await upstream.move(names[0])
        line = await stack.enter_async_context(Line(int(upstream.center.address.rpartition(":")[2])))
        address = f"127.0.0.1:{line.port}"
        node = await stack.enter_async_context(following(folder / "node", address, turns=beside))
        channel = await stack.enter_async_context(open_channel(neighbour.center.address, node="edge@test"))
        await node.serves(versions[0][1])
        yield Place(node, upstream, line, beside, neighbour, names, channel)


async def updated(place: Place, versions: Versions) -> int:
    """Bytes that came from upstream while the node went to the second version."""
    path, manifest = versions[1]
    before = place.line.down_bytes
    await place.upstream.move(place.names[1])
    await place.node.serves(manifest)
    assert place.node.content(manifest) == path.read_bytes()
    assert accounts_for(place.node.progress, manifest)
    return place.line.down_bytes - before


async def test_the_delta_comes_from_the_neighbour(tmp_path: Path, versions: Versions) -> None:
    two = versions[1][1]
    async with placed(tmp_path, versions) as place:
        await place.make_delta()
        place.near()
        assert await updated(place, versions) < 0.01 * two.size, "the channel's news only"
        assert place.node.progress.delta_bytes > 0.9 * two.size
        assert place.node.progress.wire_bytes < 0.05 * two.size


async def test_a_delta_that_the_neighbour_would_have_to_make_is_not_waited_for(
    tmp_path: Path, versions: Versions
) -> None:
    two = versions[1][1]
    async with placed(tmp_path, versions) as place:
        place.near()
        assert await updated(place, versions) < 0.01 * two.size
        assert place.node.progress.delta_bytes == 0
        assert place.node.progress.fetched_bytes > 0.9 * two.size


class WithoutDeltas:
    """A neighbour that loses the line whenever it is to send what is no chunk of the file."""

    def __init__(self, source: Source, manifest: Manifest) -> None:
        self._source, self._chunks = source, {*manifest.unique, manifest.digest}
        self.name = source.name
        self.refused = 0

    async def read(self, ranges: Sequence[WantedRange]) -> AsyncGenerator[Piece, None]:
        if any(each.digest not in self._chunks for each in ranges):
            self.refused += 1
            raise LineLost("cut")
        async for piece in self._source.read(ranges):
            yield piece

    async def missing(self, digests: Sequence[Digest]) -> list[Digest]:
        return await self._source.missing(digests)


async def test_a_neighbour_whose_delta_cannot_be_had_still_gives_its_chunks(tmp_path: Path, versions: Versions) -> None:
    two = versions[1][1]
    async with placed(tmp_path, versions) as place:
        await place.make_delta()
        source = WithoutDeltas(GrpcSource(place.channel, "edge beside"), two)
        place.near(source)
        assert await updated(place, versions) < 0.01 * two.size
    assert source.refused, "the delta was tried"
    assert not place.beside.given_up


async def test_when_the_neighbour_is_gone_everything_comes_from_upstream(tmp_path: Path, versions: Versions) -> None:
    two = versions[1][1]
    async with placed(tmp_path, versions) as place, open_channel("127.0.0.1:1", node="edge@test") as gone:
        place.channel = gone
        place.near()
        assert await updated(place, versions) > 0.9 * two.size
        assert len(place.beside.given_up) == 1
