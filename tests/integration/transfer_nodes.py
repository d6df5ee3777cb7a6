"""Small real nodes for the tests of transfer: a content server on loopback, a registry whose channels tests move."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from deltaic.errors import NotFound
from deltaic.names import ChannelName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.store.addresses import open_chunk_store
from deltaic.store.chunk_store import ObjectChunkStore
from deltaic.store.reading import ChunkReader
from deltaic.transfer.content_servicer import ContentServicer
from deltaic.v1 import content_pb2_grpc, registry_pb2, registry_pb2_grpc
from deltaic.weights.manifest import Manifest


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """The watching half of a registry; `move` points a channel at a manifest."""

    def __init__(self) -> None:
        self.channels: dict[str, registry_pb2.Channel] = {}
        self.plans_asked = 0
        self._changed = asyncio.Condition()

    async def move(self, channel: ChannelName, manifest: Manifest) -> registry_pb2.Channel:
        revision = registry_pb2.Revision(
            name=f"{channel.of_model}/revisions/{manifest.revision}",
            manifest=manifest.digest.to_proto(),
            file_bytes=manifest.size,
        )
        message = registry_pb2.Channel(name=str(channel), revision=revision, etag=manifest.digest.hex[:8])
        async with self._changed:
            self.channels[str(channel)] = message
            self._changed.notify_all()
        return message

    async def WatchChannels(
        self, request: registry_pb2.WatchChannelsRequest, context: Any
    ) -> AsyncIterator[registry_pb2.WatchChannelsResponse]:
        sent: dict[str, registry_pb2.Channel] = {}
        while True:
            news = [c for n, c in self.channels.items() if n in request.names and sent.get(n) != c]
            for channel in news:
                sent[channel.name] = channel
                yield registry_pb2.WatchChannelsResponse(channel=channel)
            async with self._changed:
                await self._changed.wait_for(
                    lambda: any(sent.get(n) != c for n, c in self.channels.items() if n in request.names)
                )

    async def PlanUpdate(self, request: registry_pb2.PlanUpdateRequest, context: Any) -> Any:
        self.plans_asked += 1
        raise NotFound(f"no {request.want}")


@asynccontextmanager
async def serving(
    reader: ChunkReader, writer: ObjectChunkStore | None = None, registry: Registry | None = None, port: int = 0
) -> AsyncIterator[Server]:
    server = Server(f"127.0.0.1:{port}")
    server.add(
        content_pb2_grpc.add_ContentServiceServicer_to_server,
        ContentServicer(reader, writer),
        "deltaic.v1.ContentService",
    )
    if registry is not None:
        server.add(registry_pb2_grpc.add_RegistryServiceServicer_to_server, registry, "deltaic.v1.RegistryService")
    async with server.running(grace=0.1):
        yield server


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[grpc.aio.Channel]:
    channel = open_channel(f"127.0.0.1:{port}", node="edge@test")
    try:
        yield channel
    finally:
        await channel.close()


async def stored(folder: Path, *paths: Path) -> tuple[ObjectChunkStore, list[Manifest]]:
    """A chunk store that holds these files, as a publisher would have left it."""
    store = open_chunk_store(str(folder))
    manifests = []
    for path in paths:
        manifest = Manifest.build(path)
        content = path.read_bytes()
        for digest, offsets in manifest.unique.items():
            await store.put(digest, content[offsets[0] : offsets[0] + digest.size])
        await store.put(manifest.digest, manifest.data)
        manifests.append(manifest)
    return store, manifests
