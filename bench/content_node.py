"""A node that serves a model's chunks, as a center does: content_node.py STORE [MODEL]

With MODEL it fills the store as a publisher leaves it, prints the revision and the bytes of the manifest, and ends.
Without, it serves ContentService on a free port of 127.0.0.1, prints the port, and ends at SIGTERM.
"""

import asyncio
import signal
import sys
from pathlib import Path

from deltaic.rpc.server import Server
from deltaic.runtime.arenas import share_arenas
from deltaic.runtime.logs import configure_logs
from deltaic.runtime.slices import answer_quickly_on
from deltaic.store.addresses import open_chunk_store
from deltaic.transfer.content_servicer import ContentServicer
from deltaic.v1 import content_pb2_grpc
from deltaic.weights.manifest import Manifest


async def fill(store_folder: str, model: Path) -> None:
    store = open_chunk_store(store_folder)
    manifest = Manifest.build(model)
    with model.open("rb") as file:
        for digest, offsets in manifest.unique.items():
            file.seek(offsets[0])
            await store.put(digest, file.read(digest.size))
    await store.make_durable(manifest.unique)
    await store.put(manifest.digest, manifest.data)
    await store.make_durable([manifest.digest])
    print(manifest.revision, manifest.digest.size)


async def serve(store_folder: str) -> None:
    store = open_chunk_store(store_folder)
    server = Server("127.0.0.1:0")
    register = content_pb2_grpc.add_ContentServiceServicer_to_server
    server.add(register, ContentServicer(store, store), "deltaic.v1.ContentService")
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    answer_quickly_on(loop)
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    async with server.running(grace=0.1):
        print(server.port, flush=True)
        await ended.wait()


if __name__ == "__main__":
    share_arenas()
    configure_logs("warning")
    _, folder, *model = sys.argv
    asyncio.run(fill(folder, Path(model[0])) if model else serve(folder))
