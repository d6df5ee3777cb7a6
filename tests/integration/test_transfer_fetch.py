"""Fetching over a line that is slow, cut and bent: the file is right, and no verified chunk comes twice."""

import asyncio
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from line import Line
from transfer_nodes import connected, serving, stored

from deltaic.errors import Code
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.backoff import Retry
from deltaic.transfer.errors import LineLost, SourceLied
from deltaic.transfer.fetch import FetchStats, fetch, fetch_manifest
from deltaic.transfer.source import GrpcSource

BALLAST = 24 << 20
QUICK = Retry(failures=8, first_delay=0.01, longest_delay=0.05)


@pytest.fixture(scope="session")
def model(tiny_gguf: Callable[..., Path]) -> Path:
    return tiny_gguf("model.gguf", ballast=BALLAST)


async def bring(files: ModelFiles, port: int, manifest: Any, **options: Any) -> tuple[Path, FetchStats]:
    async with connected(port) as channel:
        source = GrpcSource(channel, "center")
        got, _ = await fetch_manifest(source, manifest.digest, retry=QUICK)
        with files.stage(got) as staging:
            stats = await fetch(staging, [source], retry=QUICK, **options)
            return staging.commit(), stats


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def blobs_read(logs: list[Any]) -> set[str]:
    """Which blobs were asked for, in part or whole, by the server's own log."""
    return {digest for log in logs if log["event"] == "content.read" for digest, _offset in log["ranges"]}


async def test_a_fetched_file_is_the_published_file(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    seen: list[tuple[int, int]] = []
    async with serving(store) as server:
        path, stats = await bring(
            ModelFiles(tmp_path / "models"), server.port, manifest, on_progress=lambda *at: seen.append(at)
        )
    assert same(path, model)
    total = sum(digest.size for digest in manifest.unique)
    assert stats.fetched_bytes + stats.resumed_bytes == total
    assert stats.resumed_bytes < 1000, "zero padding needs no fetching: a fresh file is zeros"
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)
    assert stats.wire_bytes < stats.fetched_bytes, "the vocabulary compresses"
    assert stats.wire_bytes > 0.99 * BALLAST, "random weights do not"


async def test_a_byte_bent_on_the_way_is_noticed_and_fetched_again(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    async with serving(store) as server, Line(server.port) as line:
        line.bend(down=2)
        path, stats = await bring(ModelFiles(tmp_path / "models"), line.port, manifest)
        assert line.bent == 2
    assert stats.bad_copies >= 1
    assert same(path, model)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_bits_flipped_anywhere_even_in_headers_never_reach_the_file(
    tmp_path: Path, model: Path, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", logger="grpc")
    store, [manifest] = await stored(tmp_path / "chunks", model)
    async with serving(store) as server, Line(server.port) as line, connected(line.port) as channel:
        line.bend_anywhere(random.Random(seed).sample(range(60_000, 20_000_000), 12))
        source = GrpcSource(channel, "center", idle_timeout=1.0)
        with ModelFiles(tmp_path / "models").stage(manifest) as staging:
            stats = await fetch(staging, [source], retry=Retry())
            assert same(staging.commit(), model)
        assert line.bent == 12
    assert stats.bad_copies + stats.cuts > 0


async def test_thirty_cuts_delay_the_file_and_repeat_no_verified_chunk(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    dice = random.Random(7)
    with structlog.testing.capture_logs():
        async with serving(store) as server, Line(server.port) as line:
            left = [30]

            def cut_again() -> None:
                left[0] -= 1
                if left[0] > 0:
                    line.cut_after(dice.randrange(50_000, 800_000))

            line.on_cut = cut_again
            line.cut_after(300_000)
            path, stats = await bring(ModelFiles(tmp_path / "models"), line.port, manifest)
            assert left[0] <= 0
            carried = line.down_bytes
    assert same(path, model)
    assert stats.cuts > 10
    assert stats.bad_copies == 0
    assert stats.fetched_bytes + stats.resumed_bytes == sum(digest.size for digest in manifest.unique)
    # The sender may have handed the last bytes of a blob to a line that lost them; the receiver verified each once.
    assert stats.wire_bytes <= 1.001 * stats.fetched_bytes
    assert carried < 1.6 * manifest.size


async def test_a_killed_process_leaves_what_it_verified_and_the_next_fetches_only_the_rest(
    tmp_path: Path, model: Path
) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    folder = tmp_path / "models"
    part = folder / f"{manifest.digest.hex}.part"
    async with serving(store) as server, Line(server.port, bytes_per_second=12_000_000) as line:
        first = await start_fetching(line.port, folder, manifest)
        async with asyncio.timeout(30):
            while written(part) < manifest.size * 0.4:
                await asyncio.sleep(0.02)
        first.send_signal(signal.SIGKILL)
        await first.wait()
    assert list(folder.glob("*.gguf")) == [], "nothing whole-looking"

    with ModelFiles(folder).stage(manifest) as staging:
        missing = {chunk.digest.hex for chunk in staging.missing}
        missing_bytes = staging.missing_bytes
    assert 0 < len(missing) < len(manifest.unique)
    async with serving(store) as server, Line(server.port) as line:
        with structlog.testing.capture_logs() as logs:
            second = await start_fetching(line.port, folder, manifest)
            assert await second.wait() == 0
        assert line.down_bytes < 1.01 * missing_bytes + 20_000
    assert same(folder / f"{manifest.digest.hex}.gguf", model)
    assert blobs_read(logs) == missing | {manifest.digest.hex}


async def start_fetching(port: int, folder: Path, manifest: Any) -> asyncio.subprocess.Process:
    program = Path(__file__).with_name("fetch_process.py")
    facts = [str(port), str(folder), manifest.revision, str(manifest.digest.size)]
    return await asyncio.create_subprocess_exec(sys.executable, str(program), *facts)


def written(part: Path) -> int:
    return part.stat().st_blocks * 512 if part.exists() else 0


async def test_a_chunk_that_rotted_in_the_store_is_a_typed_error_and_leaves_nothing_whole(
    tmp_path: Path, model: Path
) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    rotten = manifest.chunks[len(manifest.chunks) // 2].digest
    file = tmp_path / "chunks" / "chunks" / rotten.hex[:2] / rotten.hex
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    files = ModelFiles(tmp_path / "models")
    async with serving(store) as server:
        with pytest.raises(SourceLied, match=str(rotten)) as raised:
            await bring(files, server.port, manifest)
    assert raised.value.code is Code.DATA_LOSS
    assert files.revisions() == []
    assert list(files.folder.glob("*.gguf")) == []
    with files.stage(manifest) as staging:
        assert [chunk.digest for chunk in staging.missing] == [rotten], "everything else has arrived and is kept"


async def test_a_line_that_stays_down_ends_in_one_clear_error(tmp_path: Path, model: Path) -> None:
    store, [manifest] = await stored(tmp_path / "chunks", model)
    async with serving(store) as server, Line(server.port) as line, connected(line.port) as channel:
        source = GrpcSource(channel, "center")
        got, _ = await fetch_manifest(source, manifest.digest)
        line.on_cut = lambda: setattr(line, "is_down", True)
        line.cut_after(3_000_000)
        with ModelFiles(tmp_path / "models").stage(got) as staging:
            with pytest.raises(LineLost, match="without progress"):
                await fetch(staging, [source], retry=QUICK)
            assert 0 < len(staging.missing) < len(manifest.unique)


async def test_a_second_source_serves_what_the_first_has_lost(tmp_path: Path, model: Path) -> None:
    good, [manifest] = await stored(tmp_path / "good", model)
    bad, _ = await stored(tmp_path / "bad", model)
    for chunk in manifest.chunks[::3]:
        await bad.delete(chunk.digest)
    async with (
        serving(good) as first,
        serving(bad) as second,
        connected(first.port) as one,
        connected(second.port) as two,
    ):
        with ModelFiles(tmp_path / "models").stage(manifest) as staging:
            await fetch(staging, [GrpcSource(two, "bad"), GrpcSource(one, "good")], retry=QUICK)
            assert same(staging.commit(), model)
