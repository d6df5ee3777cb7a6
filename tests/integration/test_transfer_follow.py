"""Following a channel over a real line: update, offline, restart, repair, supersede, failure."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from line import Line
from transfer_nodes import Registry, connected, serving, stored

from deltaic.names import ChannelName
from deltaic.store import part_file
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.backoff import Retry
from deltaic.transfer.channel_book import ChannelState
from deltaic.transfer.follow import Follower
from deltaic.v1 import fleet_pb2
from deltaic.weights.manifest import Manifest

STABLE = ChannelName("tiny", "stable")
CANARY = ChannelName("tiny", "canary")
QUICK = Retry(failures=4, first_delay=0.01, longest_delay=0.05)
Phase = fleet_pb2.ModelState.Phase


class Node:
    """A follower and what it was told to activate."""

    def __init__(self, folder: Path, channel: Any, channels: Sequence[ChannelName] = (STABLE,)) -> None:
        self.folder = folder
        self.files = ModelFiles(folder / "models")
        self.activated: list[tuple[str, bytes]] = []
        self.states: list[fleet_pb2.ModelState] = []
        self.refuse: set[str] = set()
        self.follower = Follower(
            channels,
            channel,
            self.files,
            self.activate,
            data_dir=folder,
            upstream_name="center",
            on_state=self.states.append,
            retry=QUICK,
        )

    async def activate(self, state: ChannelState, path: Path, manifest: Manifest) -> None:
        if manifest.revision in self.refuse:
            raise RuntimeError("the worker died while warming")
        self.activated.append((state.revision.revision, await asyncio.to_thread(path.read_bytes)))

    @property
    def state(self) -> fleet_pb2.ModelState:
        return next(iter(self.follower.states()), fleet_pb2.ModelState())

    @property
    def phase(self) -> int:
        return self.state.phase

    def serves(self, manifest: Manifest) -> bool:
        held = self.follower.held().get(STABLE)
        return held is not None and held.revision.revision == manifest.revision and self.phase == Phase.PHASE_READY

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Node"]:
        task = asyncio.create_task(self.follower.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(scope="session")
def versions(tiny_gguf: Callable[..., Path]) -> tuple[Path, Path, Path]:
    """Version 2 has one tensor changed, version 3 the chat template too."""
    one = tiny_gguf("model.gguf", ballast=6 << 20)
    two = tiny_gguf("model.gguf", ballast=6 << 20, changed=["blk.0.attn_q.weight"])
    three = tiny_gguf("model.gguf", ballast=6 << 20, changed=["blk.0.attn_q.weight"], chat_template="{{ messages }}")
    return one, two, three


async def test_a_moved_channel_is_fetched_switched_to_and_reported(tmp_path: Path, versions: Any) -> None:
    store, [one, two, three] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            await until(lambda: node.serves(one))
            await registry.move(STABLE, two)
            await until(lambda: node.serves(two))
            await registry.move(STABLE, three)
            await until(lambda: node.serves(three))
            state = node.state
    assert [revision for revision, _ in node.activated] == [one.revision, two.revision, three.revision]
    assert [content for _, content in node.activated] == [path.read_bytes() for path in versions]
    assert state.target_revision == state.serving_revision == f"models/tiny/revisions/{three.revision}"
    assert state.progress.full_bytes == three.size
    assert state.progress.reused_bytes > 0.99 * three.size
    assert 0 < state.progress.wire_bytes < 0.01 * three.size
    assert state.progress.fetch_seconds > 0
    assert accounts_for(state, three)
    assert {Phase.PHASE_FETCHING, Phase.PHASE_LOADING, Phase.PHASE_READY} <= {each.phase for each in node.states}
    assert registry.plans_asked == 3


async def test_only_the_previous_revision_stays_beside_the_serving_one(tmp_path: Path, versions: Any) -> None:
    store, manifests = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            for manifest in manifests:
                await registry.move(STABLE, manifest)
                await until(lambda m=manifest: node.serves(m))
            kept = sorted([manifests[1].revision, manifests[2].revision])
            await until(lambda: [each.revision for each in node.files.revisions()] == kept)


async def test_a_restart_without_upstream_serves_what_is_held(tmp_path: Path, versions: Any) -> None:
    store, [one, *_] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server:
        port = server.port
        async with connected(port) as channel, Node(tmp_path / "edge", channel).running() as node:
            await until(lambda: node.serves(one))
    async with connected(port) as channel:
        again = Node(tmp_path / "edge", channel)
        with structlog.testing.capture_logs() as logs:
            async with again.running():
                await until(lambda: again.serves(one))
                await asyncio.sleep(0.5)
    assert again.activated == [(one.revision, versions[0].read_bytes())]
    assert again.state.progress.reused_bytes == again.state.progress.full_bytes == one.size, "nothing is left to do"
    assert [log["event"] for log in logs].count("watch.line_down") == 1, "offline is said once"


async def test_a_node_catches_up_when_the_line_is_back(tmp_path: Path, versions: Any) -> None:
    store, [one, two, _] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server, Line(server.port) as line, connected(line.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            await until(lambda: node.serves(one))
            with structlog.testing.capture_logs() as logs:
                line.take_down()
                await until(lambda: not node.follower.online)
                await registry.move(STABLE, two)
                await asyncio.sleep(0.3)
                assert node.serves(one)
                line.bring_back()
                await until(lambda: node.serves(two))
    events = [log["event"] for log in logs]
    assert events.count("watch.line_down") == events.count("watch.line_back") == 1


async def test_a_flipped_byte_in_the_held_file_is_found_at_start_and_only_its_chunk_is_fetched(
    tmp_path: Path, versions: Any
) -> None:
    store, [one, *_] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            await until(lambda: node.serves(one))
        file = node.files.path(one.digest.hex)
        assert file is not None
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        again = Node(tmp_path / "edge", channel)
        await again.follower.restore()
        assert again.activated == [], "a damaged file is not served"
        async with again.running():
            await until(lambda: again.serves(one))
            progress = again.state.progress
    assert again.activated == [(one.revision, versions[0].read_bytes())]
    assert progress.wire_bytes < 5 << 20
    assert accounts_for(again.state, one), "the chunks that were whole count too"
    assert progress.fetched_bytes < 5 << 20


async def test_the_newest_word_wins_over_a_fetch_in_progress(tmp_path: Path, versions: Any) -> None:
    store, [one, two, _] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server:
        async with Line(server.port, bytes_per_second=2_000_000) as line, connected(line.port) as channel:
            async with Node(tmp_path / "edge", channel).running() as node:
                await until(lambda: node.state.progress.fetched_bytes > 100_000)
                await registry.move(STABLE, two)
                await until(lambda: node.state.target_revision.endswith(two.revision))
                line.bytes_per_second = 0
                await until(lambda: node.serves(two))
                await until(lambda: node.files.unfinished() == [])
    assert [revision for revision, _ in node.activated] == [two.revision]


async def test_what_an_earlier_attempt_left_counts_as_reused(tmp_path: Path, versions: Any) -> None:
    store, [one, *_] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server:
        async with Line(server.port, bytes_per_second=4_000_000) as line, connected(line.port) as channel:
            async with Node(tmp_path / "edge", channel).running() as node:
                await until(lambda: node.state.progress.fetched_bytes > 1_000_000)
        async with connected(server.port) as channel, Node(tmp_path / "edge", channel).running() as again:
            with structlog.testing.capture_logs() as logs:
                await until(lambda: again.serves(one))
    assert accounts_for(again.state, one)
    assert again.state.progress.fetched_bytes < one.size
    complete = next(log for log in logs if log["event"] == "update.complete")
    assert complete["reused_bytes"] + complete["fetched_bytes"] == one.size + one.digest.size


async def test_an_update_says_how_fast_it_comes_and_how_long_it_still_takes(tmp_path: Path, versions: Any) -> None:
    store, [one, *_] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server:
        async with Line(server.port, bytes_per_second=2_000_000) as line, connected(line.port) as channel:
            async with Node(tmp_path / "edge", channel).running() as node:
                await until(lambda: node.state.progress.wire_bytes > 3_000_000)
                progress = node.state.progress
                line.bytes_per_second = 0
                await until(lambda: node.serves(one))
                done = node.state.progress
    assert 500_000 < progress.bytes_per_second < 8_000_000
    left = progress.full_bytes - progress.reused_bytes - progress.fetched_bytes
    assert 0 < progress.seconds_left <= 1.1 * left / progress.bytes_per_second
    assert (done.bytes_per_second, done.seconds_left) == (0.0, 0.0)


async def test_a_channel_that_leaves_an_update_in_the_middle_reports_what_it_serves(
    tmp_path: Path, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, [one, two, _] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            await until(lambda: node.serves(one))
            monkeypatch.setattr("deltaic.store.staging.free_bytes", lambda _folder: 0)
            await registry.move(STABLE, two)
            await until(lambda: node.phase == Phase.PHASE_FAILED)
            await registry.move(STABLE, one)
            await until(lambda: node.serves(one))
            state = node.state
    assert state.target_revision.endswith(one.revision)
    assert accounts_for(state, one)
    assert state.progress.fetched_bytes == 0, "the manifest that came was of another revision"


async def test_a_failed_switch_keeps_the_old_revision_and_is_tried_again(
    tmp_path: Path, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltaic.transfer.pursuit._FIRST_DELAY_SECONDS", 0.05)
    store, [one, two, _] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        node = Node(tmp_path / "edge", channel)
        node.refuse.add(two.revision)
        async with node.running():
            await until(lambda: node.serves(one))
            await registry.move(STABLE, two)
            await until(lambda: node.phase == Phase.PHASE_FAILED)
            state = node.state
            assert state.serving_revision.endswith(one.revision)
            assert state.target_revision.endswith(two.revision)
            assert "the worker died" in state.detail
            assert node.follower.held()[STABLE].revision.revision == one.revision
            node.refuse.clear()
            await until(lambda: node.serves(two))


async def test_a_channel_that_turns_back_is_a_switch_without_a_fetch(tmp_path: Path, versions: Any) -> None:
    store, [one, two, _] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            for manifest in (one, two, one):
                await registry.move(STABLE, manifest)
                await until(lambda m=manifest: node.serves(m))
            assert node.state.progress.wire_bytes == 0
            assert node.state.progress.reused_bytes == node.state.progress.full_bytes == one.size
    assert [revision for revision, _ in node.activated] == [one.revision, two.revision, one.revision]


async def test_a_full_disk_is_said_and_the_old_revision_serves_until_there_is_room(
    tmp_path: Path, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltaic.transfer.pursuit._FIRST_DELAY_SECONDS", 0.05)
    store, [one, two, _] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            await until(lambda: node.serves(one))
            with monkeypatch.context() as full:
                full.setattr("deltaic.store.staging.free_bytes", lambda _folder: 0)
                await registry.move(STABLE, two)
                await until(lambda: node.phase == Phase.PHASE_FAILED)
                assert "no room" in node.state.detail
                assert node.follower.held()[STABLE].revision.revision == one.revision
            await until(lambda: node.serves(two))


class SmallDisk:
    """A disk that takes so many bytes more into growing files, and then none."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 1 << 40
        self._write = part_file.write_all
        monkeypatch.setattr(part_file, "write_all", self.write_all)

    def write_all(self, descriptor: int, data: Any, offset: int) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(descriptor, data, offset)


async def test_a_disk_that_fills_up_in_the_middle_keeps_the_old_serving_and_what_came_counts(
    tmp_path: Path, tiny_gguf: Callable[..., Path], versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltaic.transfer.pursuit._FIRST_DELAY_SECONDS", 0.05)
    large = tiny_gguf("model.gguf", ballast=20 << 20, seed=3)
    store, [one, two] = await stored(tmp_path / "chunks", versions[0], large)
    registry = Registry()
    await registry.move(STABLE, one)
    disk = SmallDisk(monkeypatch)
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            await until(lambda: node.serves(one))
            disk.room = 9 << 20
            await registry.move(STABLE, two)
            await until(lambda: node.phase == Phase.PHASE_FAILED)
            assert "no room" in node.state.detail
            assert node.follower.held()[STABLE].revision.revision == one.revision
            assert [each.revision for each in node.files.revisions()] == [one.revision]
            disk.room = 1 << 40
            await until(lambda: node.serves(two))
            assert accounts_for(node.state, two), "what came before the disk was full was not fetched again"
    done = [each.progress.reused_bytes + each.progress.fetched_bytes for each in of_update(node.states, two)]
    assert done == sorted(done), "progress never runs backwards"


def of_update(states: Sequence[fleet_pb2.ModelState], manifest: Manifest) -> list[fleet_pb2.ModelState]:
    return [state for state in states if state.target_revision.endswith(manifest.revision)]


async def test_a_full_disk_makes_room_by_giving_up_the_way_back(
    tmp_path: Path, versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, [one, two, three] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            for manifest in (one, two):
                await registry.move(STABLE, manifest)
                await until(lambda m=manifest: node.serves(m))
            first = node.files.folder / f"{one.digest.hex}.gguf"
            monkeypatch.setattr(
                "deltaic.store.staging.free_bytes", lambda _folder: 0 if first.exists() else 1 << 40
            )  # fmt: skip
            with structlog.testing.capture_logs() as logs:
                await registry.move(STABLE, three)
                await until(lambda: node.serves(three))
            assert not first.exists()
            assert "follow.made_room" in [log["event"] for log in logs]


@pytest.mark.parametrize("vandalism", ["cut", "emptied", "replaced"])
async def test_a_growing_file_that_is_cut_or_replaced_while_it_grows_becomes_right(
    tmp_path: Path, tiny_gguf: Callable[..., Path], vandalism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deltaic.transfer.pursuit._FIRST_DELAY_SECONDS", 0.05)
    large = tiny_gguf("model.gguf", ballast=20 << 20)
    store, [manifest] = await stored(tmp_path / "chunks", large)
    registry = Registry()
    await registry.move(STABLE, manifest)
    async with serving(store, registry=registry) as server, Line(server.port, bytes_per_second=10_000_000) as line:
        async with connected(line.port) as channel, Node(tmp_path / "edge", channel).running() as node:
            part = node.files.folder / f"{manifest.digest.hex}.part"
            await until(lambda: node.state.progress.fetched_bytes > 6_000_000)
            if vandalism == "replaced":
                part.unlink()
                part.write_bytes(b"rubbish")
            else:
                os.truncate(part, 3_000_000 if vandalism == "cut" else 0)
            line.bytes_per_second = 0
            await until(lambda: node.serves(manifest))
    assert node.activated == [(manifest.revision, large.read_bytes())]


async def test_a_restart_in_the_middle_of_an_update_serves_the_old_and_then_goes_on(
    tmp_path: Path, versions: Any
) -> None:
    store, [one, two, _] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        first = Node(tmp_path / "edge", channel)
        first.refuse.add(two.revision)
        async with first.running():
            await until(lambda: first.serves(one))
            await registry.move(STABLE, two)
            await until(lambda: first.phase == Phase.PHASE_FAILED)
    async with connected(server.port) as nobody:
        again = Node(tmp_path / "edge", nobody)
        async with again.running():
            await until(lambda: again.serves(two))
    assert [revision for revision, _ in again.activated] == [one.revision, two.revision], "both without upstream"


async def test_a_channel_that_comes_into_being_later_is_followed(tmp_path: Path, versions: Any) -> None:
    store, [one, *_] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    async with serving(store, registry=registry) as server, connected(server.port) as channel:
        async with Node(tmp_path / "edge", channel).running() as node:
            await asyncio.sleep(0.2)
            assert node.follower.states() == []
            await registry.move(STABLE, one)
            await until(lambda: node.serves(one))


async def test_two_channels_of_one_revision_share_one_fetch(tmp_path: Path, versions: Any) -> None:
    store, [one, *_] = await stored(tmp_path / "chunks", *versions)
    registry = Registry()
    await registry.move(STABLE, one)
    await registry.move(CANARY, one)
    with structlog.testing.capture_logs() as logs:
        async with serving(store, registry=registry) as server, connected(server.port) as channel:
            async with Node(tmp_path / "edge", channel, [STABLE, CANARY]).running() as node:
                await until(lambda: len(node.follower.held()) == 2)
                assert all(accounts_for(state, one) for state in node.follower.states())
    asked = [digest for log in logs if log["event"] == "content.read" for digest, _ in log["ranges"]]
    assert len(asked) == len(set(asked)) == len(one.unique) + 1 - len(zeros(one))
    assert len(node.activated) == 2


def accounts_for(state: fleet_pb2.ModelState, manifest: Manifest) -> bool:
    """Whether the progress says of every byte of the file where it came from."""
    progress = state.progress
    chunks = progress.fetched_bytes - manifest.digest.size if progress.fetched_bytes else 0
    return progress.full_bytes == manifest.size == progress.reused_bytes + chunks


def zeros(manifest: Manifest) -> list[Any]:
    """Chunks that a fresh file has without being written."""
    return [digest for digest in manifest.unique if digest.matches(bytes(digest.size))]
