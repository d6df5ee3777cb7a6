"""A center on a free port of loopback, and what its tests say to it."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from center.app import Center
from center.config import CenterSettings
from deltaic.names import RevisionName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.status import RemoteError, from_rpc_error
from deltaic.store.chunk_store import key_of
from deltaic.transfer.upload import upload
from deltaic.v1 import (
    audit_pb2_grpc,
    content_pb2_grpc,
    fleet_pb2_grpc,
    inference_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

TIMEOUT = 60.0
TrialLoad = Callable[[RevisionName, Path], Awaitable[None]]


async def accepts_everything(_name: RevisionName, _path: Path) -> None:
    """A trial load for tests of what comes before and after it."""


@dataclass(frozen=True)
class CenterNode:
    """A running center as a client sees it, and its data folder as a vandal does."""

    center: Center
    channel: grpc.aio.Channel
    data_dir: Path

    @property
    def registry(self) -> Any:
        return registry_pb2_grpc.RegistryServiceStub(self.channel)

    @property
    def content(self) -> Any:
        return content_pb2_grpc.ContentServiceStub(self.channel)

    @property
    def inference(self) -> Any:
        return inference_pb2_grpc.InferenceServiceStub(self.channel)

    @property
    def fleet(self) -> Any:
        return fleet_pb2_grpc.FleetServiceStub(self.channel)

    @property
    def audit(self) -> Any:
        return audit_pb2_grpc.AuditServiceStub(self.channel)

    async def upload(self, path: Path) -> Manifest:
        manifest = Manifest.build(path)
        await upload(path, manifest, self.channel, target="center")
        return manifest

    async def publish(self, manifest: Digest, model: str = "m", request_id: str = "") -> registry_pb2.Revision:
        request = registry_pb2.PublishRevisionRequest(
            request_id=request_id or str(uuid.uuid4()), model=f"models/{model}", manifest=manifest.to_proto()
        )
        answer = await self.registry.PublishRevision(request, timeout=TIMEOUT)
        return answer.revision

    async def publish_file(self, path: Path, model: str = "m") -> registry_pb2.Revision:
        return await self.publish((await self.upload(path)).digest, model)

    async def move(self, revision: str, etag: str = "", channel: str = "stable") -> registry_pb2.Channel:
        model = RevisionName.parse(revision).model
        request = registry_pb2.SetChannelRequest(
            name=f"models/{model}/channels/{channel}", revision=revision, etag=etag
        )
        return (await self.registry.SetChannel(request, timeout=TIMEOUT)).channel

    async def tag(self, revision: str, tag: str) -> registry_pb2.Tag:
        model = RevisionName.parse(revision).model
        request = registry_pb2.CreateTagRequest(name=f"models/{model}/tags/{tag}", revision=revision)
        return (await self.registry.CreateTag(request, timeout=TIMEOUT)).tag

    async def collect(
        self, *, dry_run: bool = False
    ) -> tuple[dict[str, list[registry_pb2.Keeper]], registry_pb2.CollectSummary]:
        """What keeps each revision, and the summary."""
        request = registry_pb2.CollectGarbageRequest(dry_run=dry_run)
        news = [each async for each in self.registry.CollectGarbage(request, timeout=TIMEOUT)]
        fates = [each.revision for each in news if each.HasField("revision")]
        assert news[-1].HasField("summary"), "a summary is the last word"
        return {fate.revision.name: list(fate.keepers) for fate in fates}, news[-1].summary

    def blobs(self) -> set[str]:
        """The hexadecimal digits of every blob in the store's folder."""
        return {path.name for path in (self.data_dir / "chunks" / "chunks").glob("??/*")}

    def stored(self, digest: Digest) -> Path:
        """The file in which a chunk rests."""
        return self.data_dir / "chunks" / key_of(digest)


@asynccontextmanager
async def running_center(
    data_dir: Path, *, trial_load: TrialLoad | None = accepts_everything, **settings: Any
) -> AsyncIterator[CenterNode]:
    center = Center(CenterSettings(listen="127.0.0.1:0", data_dir=data_dir, **settings), trial_load=trial_load)
    async with center.running(), open_channel(center.address, node="test@here") as channel:
        yield CenterNode(center, channel, data_dir)


async def refusal(call: Awaitable[Any]) -> RemoteError:
    """What a call was refused with."""
    try:
        answer = await call
    except grpc.RpcError as error:
        refused = from_rpc_error(error, "center")
        assert isinstance(refused, RemoteError)
        return refused
    raise AssertionError(f"answered instead of refused: {answer}")


def flip_byte(path: Path, offset: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
