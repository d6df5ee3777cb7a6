"""A process that fetches one revision and commits it: PORT FOLDER REVISION MANIFEST_BYTES. Tests kill it."""

import asyncio
import sys
from pathlib import Path

from deltaic.rpc.channel import open_channel
from deltaic.store.model_files import ModelFiles
from deltaic.transfer.fetch import fetch, fetch_manifest
from deltaic.transfer.source import GrpcSource
from deltaic.weights.digest import Digest


async def main(port: str, folder: str, revision: str, manifest_bytes: str) -> None:
    channel = open_channel(f"127.0.0.1:{port}", node="edge@killed")
    source = GrpcSource(channel, "center")
    manifest, _ = await fetch_manifest(source, Digest.parse(revision, int(manifest_bytes)))
    with ModelFiles(Path(folder)).stage(manifest) as staging:
        await fetch(staging, [source])
        staging.commit()
    await channel.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
