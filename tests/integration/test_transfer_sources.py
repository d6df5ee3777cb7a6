"""Several real nodes for one fetch, some of them behind lines that bend, cut, crawl or fall silent."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from line import Line
from transfer_nodes import Registry, connected, serving, stored

from deltaic.names import ChannelName
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.backoff import Retry
from deltaic.transfer.fetch import FetchStats, fetch, fetch_manifest
from deltaic.transfer.follow import Follower
from deltaic.transfer.rate_limit import RateLimit
from deltaic.transfer.rate_schedule import RateSchedule
from deltaic.transfer.settings import sources_of
from deltaic.transfer.source import GrpcSource, Source, WantedRange
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

BALLAST = 40 << 20
CHUNK = 4 << 20
QUICK = Retry(failures=8, first_delay=0.01, longest_delay=0.05)


@pytest.fixture(scope="session")
def model(tiny_gguf: Callable[..., Path]) -> Path:
    return tiny_gguf("model.gguf", ballast=BALLAST)


class Counting:
    """A source that counts what came of each blob, and what came of one that was verified before."""

    def __init__(self, source: Source, verified: set[Digest]) -> None:
        self.source = source
        self.name = source.name
        self.bytes: Counter[Digest] = Counter()
        self.of_verified = 0
        self._verified = verified

    @property
    def total(self) -> int:
        return sum(self.bytes.values())

    async def read(self, ranges: Any) -> Any:
        async for piece in self.source.read(ranges):
            digest = ranges[piece.index].digest
            self.bytes[digest] += len(piece.data)
            self.of_verified += len(piece.data) if digest in self._verified else 0
            yield piece

    async def missing(self, digests: Any) -> Any:
        return await self.source.missing(digests)


class Fleet:
    """Nodes that hold the model, each behind a line of its own."""

    def __init__(self, lines: list[Line], manifest: Manifest, folder: Path, sources: list[Source]) -> None:
        self.lines = lines
        self.manifest = manifest
        self.verified: set[Digest] = set()
        self.sources = [Counting(each, self.verified) for each in sources]
        self.files = ModelFiles(folder)

    @property
    def total(self) -> int:
        return sum(each.total for each in self.sources)

    @property
    def size(self) -> int:
        """Bytes to fetch: zeros need none."""
        return sum(digest.size for digest in self.manifest.unique if not digest.matches(bytes(digest.size)))

    async def fetch(self, **options: Any) -> tuple[Path, FetchStats]:
        with self.files.stage(self.manifest) as staging:
            write = staging.write

            def noting(chunk: Any, data: Any) -> None:
                write(chunk, data)
                self.verified.add(chunk.digest)

            staging.write = noting  # type: ignore[method-assign]
            stats = await fetch(staging, self.sources, retry=QUICK, **options)
            return staging.commit(), stats

    def assert_nothing_verified_came_again(self) -> None:
        """But for the frame that was on its way when somebody else brought a last chunk first."""
        assert sum(each.of_verified for each in self.sources) <= 2 << 20


@asynccontextmanager
async def fleet(tmp_path: Path, model: Path, count: int = 2, **line: Any) -> AsyncIterator[Fleet]:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    async with AsyncExitStack() as stack:
        lines, sources = [], []
        for number in range(count):
            server = await stack.enter_async_context(serving(store))
            lines.append(await stack.enter_async_context(Line(server.port, **line)))
            channel = await stack.enter_async_context(connected(lines[-1].port))
            sources.append(GrpcSource(channel, f"node {number}", idle_timeout=5.0))
        yield Fleet(lines, manifest, tmp_path / "models", sources)


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


async def test_two_nodes_share_the_bytes_of_one_file(tmp_path: Path, model: Path) -> None:
    async with fleet(tmp_path, model, bytes_per_second=10_000_000) as nodes:
        path, stats = await nodes.fetch()
    assert same(path, model)
    assert stats.fetched_bytes + stats.resumed_bytes == sum(digest.size for digest in nodes.manifest.unique)
    assert min(each.total for each in nodes.sources) > 0.2 * nodes.size
    nodes.assert_nothing_verified_came_again()


async def test_a_node_behind_a_line_that_bends_bytes_costs_a_few_chunks(tmp_path: Path, model: Path) -> None:
    async with fleet(tmp_path, model, bytes_per_second=20_000_000) as nodes:
        bending, _ = nodes.lines
        bending.bend(down=1_000)
        path, stats = await nodes.fetch()
        assert bending.bent > 0
    assert same(path, model)
    assert 0 < stats.bad_copies <= 8
    assert nodes.total <= nodes.size + stats.bad_copies * CHUNK + stats.doubled_bytes + 2 * CHUNK
    assert nodes.sources[1].total > 0.8 * nodes.size
    nodes.assert_nothing_verified_came_again()


async def test_a_node_behind_a_line_that_crawls_does_not_hold_up_the_others(tmp_path: Path, model: Path) -> None:
    async with fleet(tmp_path, model) as nodes:
        crawling, good = nodes.lines
        crawling.bytes_per_second = 150_000
        good.bytes_per_second = 12_000_000
        async with asyncio.timeout(25):  # alone the crawling node would take more than four minutes
            path, stats = await nodes.fetch()
    assert same(path, model)
    assert nodes.sources[0].total < 0.2 * nodes.size
    assert nodes.total <= nodes.size + stats.doubled_bytes + 2 * CHUNK
    nodes.assert_nothing_verified_came_again()


async def test_a_node_that_falls_silent_is_left_and_nothing_that_came_is_lost(tmp_path: Path, model: Path) -> None:
    async with fleet(tmp_path, model, bytes_per_second=12_000_000) as nodes:
        silent, _ = nodes.lines
        fetching = asyncio.create_task(nodes.fetch())
        while nodes.sources[0].total < 6_000_000:
            await asyncio.sleep(0.01)
        silent.bytes_per_second = 0.001
        path, stats = await fetching
    assert same(path, model)
    assert nodes.total <= nodes.size + stats.doubled_bytes + 2 * CHUNK
    nodes.assert_nothing_verified_came_again()


async def test_a_node_behind_a_line_that_is_cut_again_and_again_leaves_the_work_to_the_other(
    tmp_path: Path, model: Path
) -> None:
    dice = random.Random(11)
    async with fleet(tmp_path, model, bytes_per_second=15_000_000) as nodes:
        shaky, _ = nodes.lines
        shaky.on_cut = lambda: shaky.cut_after(dice.randrange(100_000, 1_500_000))
        shaky.cut_after(400_000)
        path, stats = await nodes.fetch()
        shaky.on_cut = lambda: None
    assert same(path, model)
    assert stats.cuts > 0
    assert stats.bad_copies == 0
    assert nodes.total <= nodes.size + stats.doubled_bytes + stats.cuts * CHUNK
    nodes.assert_nothing_verified_came_again()


async def test_fifty_cuts_of_all_lines_cost_less_than_a_chunk_each(tmp_path: Path, model: Path) -> None:
    dice = random.Random(5)
    cuts = [0]
    async with fleet(tmp_path, model) as nodes:

        def cut_again(line: Line) -> Callable[[], None]:
            def again() -> None:
                cuts[0] += 1
                if cuts[0] < 50:
                    line.cut_after(dice.randrange(300_000, 900_000))

            return again

        for line in nodes.lines:
            line.on_cut = cut_again(line)
            line.cut_after(300_000)
        with structlog.testing.capture_logs():
            path, stats = await nodes.fetch()
        carried = sum(line.down_bytes for line in nodes.lines)
    assert same(path, model)
    assert cuts[0] >= 50
    assert stats.bad_copies == 0
    assert stats.wire_bytes <= nodes.size + stats.doubled_bytes + cuts[0] * CHUNK
    assert carried <= nodes.size + stats.doubled_bytes + cuts[0] * CHUNK
    nodes.assert_nothing_verified_came_again()


async def test_a_node_that_lacks_the_model_is_asked_once_and_sent_nothing(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    empty = ModelFiles(tmp_path / "empty")
    with structlog.testing.capture_logs() as logs:
        async with serving(store) as full, serving(empty) as poor:
            async with connected(full.port) as one, connected(poor.port) as two:
                sources = [GrpcSource(one, "center"), GrpcSource(two, "edge")]
                with ModelFiles(tmp_path / "models").stage(manifest) as staging:
                    await fetch(staging, sources, retry=QUICK)
                    assert same(staging.commit(), model)
    assert not [log for log in logs if log["event"] == "rpc.refused"]


async def test_an_edge_that_holds_the_model_serves_another_edge(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    async with serving(store) as center, connected(center.port) as channel:
        held = ModelFiles(tmp_path / "one")
        with held.stage(manifest) as staging:
            await fetch(staging, [GrpcSource(channel, "center")])
            staging.commit()
        async with serving(held) as edge, Line(center.port, bytes_per_second=3_000_000) as slow:
            async with connected(slow.port) as far, connected(edge.port) as near:
                got, _ = await fetch_manifest([GrpcSource(far, "center"), GrpcSource(near, "edge")], manifest.digest)
                with ModelFiles(tmp_path / "two").stage(got) as staging:
                    sources = [GrpcSource(far, "center"), GrpcSource(near, "edge")]
                    await fetch(staging, sources)
                    assert same(staging.commit(), model)
                assert slow.down_bytes < 0.5 * manifest.size, "most came from the edge beside us"


async def test_a_follower_with_peers_needs_none_of_them(tmp_path: Path, tiny_gguf: Callable[..., Path]) -> None:
    stable = ChannelName("tiny", "stable")
    store, [manifest] = await stored(tmp_path / "chunks", tiny_gguf("model.gguf", ballast=9 << 20))
    registry = Registry()
    await registry.move(stable, manifest)
    activated = asyncio.Event()

    async def activate(*_args: Any) -> None:
        activated.set()

    async with serving(store, registry=registry) as center, connected(center.port) as channel:
        async with connected(1) as nobody, connected(9) as nobody_else:
            peers = [("127.0.0.1:1", nobody), ("127.0.0.1:9", nobody_else)]
            follower = Follower(
                [stable],
                channel,
                ModelFiles(tmp_path / "edge" / "models"),
                activate,
                data_dir=tmp_path / "edge",
                upstream_name="center",
                sources=sources_of(channel, "center", peers, ""),
            )
            task = asyncio.create_task(follower.run())
            try:
                async with asyncio.timeout(10):
                    await activated.wait()
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


async def test_all_sources_of_a_node_keep_one_rate_limit(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    wanted = [chunk.digest for chunk in manifest.chunks if chunk.digest.size > 1 << 20][:2]
    limit = RateLimit(RateSchedule.parse("4MiB"))
    loop = asyncio.get_running_loop()
    async with serving(store) as server, connected(server.port) as one, connected(server.port) as two:
        sources = [GrpcSource(one, "one", limit=limit), GrpcSource(two, "two", limit=limit)]

        async def read(source: GrpcSource, digest: Digest) -> int:
            return sum([len(piece.data) async for piece in source.read([WantedRange(digest)])])

        began = loop.time()
        sizes = await asyncio.gather(*map(read, sources, wanted))
        seconds = loop.time() - began
    assert sizes == [digest.size for digest in wanted]
    assert seconds >= sum(sizes) / (4 << 20) - 0.5


async def test_a_node_that_waits_for_its_own_limit_blames_no_source(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    limit = RateLimit(RateSchedule.parse("16MiB"))
    async with serving(store) as server, connected(server.port) as one, connected(server.port) as two:
        sources = [GrpcSource(one, "one", limit=limit, idle_timeout=0.5), GrpcSource(two, "two", limit=limit)]
        with ModelFiles(tmp_path / "models").stage(manifest) as staging:
            stats = await fetch(staging, sources)
            assert same(staging.commit(), model)
    assert stats.cuts == stats.bad_copies == 0
