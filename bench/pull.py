"""A process that pulls one revision into a folder of model files, as an edge does: pull.py PORT FOLDER REVISION BYTES

BYTES is the size of the manifest. Fetches, verifies, commits (which makes the file durable), and prints facts as JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from deltaic.rpc.channel import open_channel
from deltaic.runtime.arenas import share_arenas
from deltaic.runtime.logs import configure_logs
from deltaic.runtime.slices import answer_quickly_on
from deltaic.store.model_files import ModelFiles
from deltaic.store.staging import Staging
from deltaic.transfer.backoff import Retry
from deltaic.transfer.fetch import fetch, fetch_manifest
from deltaic.transfer.source import GrpcSource
from deltaic.transfer.threads import in_thread
from deltaic.weights.digest import Buffer, Digest
from deltaic.weights.manifest import Chunk


async def pull(port: str, folder: Path, revision: Digest) -> dict[str, object]:
    answer_quickly_on(asyncio.get_running_loop())
    started = time.monotonic()
    channel = open_channel(f"127.0.0.1:{port}", node="edge@bench")
    source = GrpcSource(channel, "center")
    manifest, _ = await fetch_manifest(source, revision)
    staging = await in_thread(ModelFiles(folder).stage, manifest)
    times_written = count_writes(staging)
    stats = await fetch(staging, [source], retry=Retry(first_delay=0.01))
    fetched = time.monotonic()
    path = await in_thread(staging.commit)
    ended = time.monotonic()
    await in_thread(staging.close)
    await channel.close()
    return {
        "file": str(path),
        "seconds": ended - started,
        "commit_seconds": ended - fetched,
        "wire_bytes": stats.wire_bytes,
        "cuts": stats.cuts,
        "chunks": len(times_written),
        "chunks_repeated": sum(times - 1 for times in times_written.values()),
    }


def count_writes(staging: Staging) -> Counter[Digest]:
    """How many times each chunk arrived whole and right: one that is fetched again is brought here again."""
    counts: Counter[Digest] = Counter()
    write = staging.write_pieces

    def counting(chunk: Chunk, pieces: Sequence[Buffer]) -> None:
        write(chunk, pieces)
        counts[chunk.digest] += 1

    setattr(staging, "write_pieces", counting)  # noqa: B010  # a bench may look over its shoulder
    return counts


if __name__ == "__main__":
    _, port, folder, revision, size = sys.argv
    share_arenas()  # and short slices for the loop, as a node has them
    configure_logs("warning")
    print(json.dumps(asyncio.run(pull(port, Path(folder), Digest.parse(revision, int(size))))))
