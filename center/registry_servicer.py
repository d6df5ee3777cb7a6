"""RegistryService: messages to the catalog and the publisher, and back."""

# ruff: noqa: ARG002  # gRPC passes a context to every method

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import structlog

from center.catalog import Catalog
from center.collection import Collector, as_response
from center.errors import BadRequest
from center.manifests import Manifests
from center.publishing import Order, Publisher
from center.records import Channel, Revision
from center.tags import Tags
from center.watch import WatchHub
from deltaic.errors import DeltaicError
from deltaic.names import ChannelName, ModelName, RevisionName, TagName
from deltaic.rpc.context import caller
from deltaic.transfer.deltas.service import DeltaService
from deltaic.transfer.plan_messages import MAX_HELD, answer, limits_of
from deltaic.transfer.threads import in_thread
from deltaic.v1 import registry_pb2, registry_pb2_grpc
from deltaic.weights.digest import Digest
from deltaic.weights.manifest import Manifest

_log = structlog.get_logger(__name__)

MAX_WATCHED = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class RegistryServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Stateless but for what it is given."""

    def __init__(
        self,
        catalog: Catalog,
        publisher: Publisher,
        manifests: Manifests,
        hub: WatchHub,
        tags: Tags,
        collector: Collector,
        deltas: DeltaService,
    ) -> None:
        self._catalog = catalog
        self._publisher = publisher
        self._manifests = manifests
        self._hub = hub
        self._tags = tags
        self._collector = collector
        self._deltas = deltas

    async def PublishRevision(
        self, request: registry_pb2.PublishRevisionRequest, context: Context
    ) -> registry_pb2.PublishRevisionResponse:
        order = Order.of(
            request_id=request.request_id,
            model=request.model,
            manifest=Digest.from_proto(request.manifest),
            description=request.description,
            actor=caller().name,
        )
        published = await self._publisher.publish(order)
        return registry_pb2.PublishRevisionResponse(revision=published.to_proto())

    async def GetRevision(
        self, request: registry_pb2.GetRevisionRequest, context: Context
    ) -> registry_pb2.GetRevisionResponse:
        found = await in_thread(self._catalog.revision, RevisionName.parse(request.name))
        return registry_pb2.GetRevisionResponse(revision=found.to_proto())

    async def ListRevisions(
        self, request: registry_pb2.ListRevisionsRequest, context: Context
    ) -> registry_pb2.ListRevisionsResponse:
        model = ModelName.parse(request.model)
        page = await in_thread(self._catalog.list_revisions, model, request.page_size, request.page_token)
        return registry_pb2.ListRevisionsResponse(
            revisions=[each.to_proto() for each in page.items], next_page_token=page.next_token
        )

    async def GetChannel(
        self, request: registry_pb2.GetChannelRequest, context: Context
    ) -> registry_pb2.GetChannelResponse:
        found = await in_thread(self._catalog.channel, ChannelName.parse(request.name))
        return registry_pb2.GetChannelResponse(channel=found.to_proto())

    async def ListChannels(
        self, request: registry_pb2.ListChannelsRequest, context: Context
    ) -> registry_pb2.ListChannelsResponse:
        model = ModelName.parse(request.model) if request.model else None
        page = await in_thread(self._catalog.list_channels, model, request.page_size, request.page_token)
        return registry_pb2.ListChannelsResponse(
            channels=[each.to_proto() for each in page.items], next_page_token=page.next_token
        )

    async def SetChannel(
        self, request: registry_pb2.SetChannelRequest, context: Context
    ) -> registry_pb2.SetChannelResponse:
        name, revision = ChannelName.parse(request.name), RevisionName.parse(request.revision)
        actor, loop = caller().name, asyncio.get_running_loop()

        def move() -> Channel:
            moved = self._catalog.set_channel(name, revision, etag=request.etag, actor=actor)
            # From here, since what is committed must be told also when the caller has left meanwhile.
            loop.call_soon_threadsafe(self._hub.announce, moved)
            return moved

        moved = await in_thread(move)
        _log.info("channel.set", channel=str(name), revision=str(moved.revision.name), actor=actor)
        return registry_pb2.SetChannelResponse(channel=moved.to_proto())

    async def CreateTag(
        self, request: registry_pb2.CreateTagRequest, context: Context
    ) -> registry_pb2.CreateTagResponse:
        name, revision = TagName.parse(request.name), RevisionName.parse(request.revision)
        made = await in_thread(self._tags.create, name, revision, actor=caller().name)
        return registry_pb2.CreateTagResponse(tag=made.to_proto())

    async def ListTags(self, request: registry_pb2.ListTagsRequest, context: Context) -> registry_pb2.ListTagsResponse:
        model = ModelName.parse(request.model) if request.model else None
        page = await in_thread(self._tags.list_tags, model, request.page_size, request.page_token)
        return registry_pb2.ListTagsResponse(
            tags=[each.to_proto() for each in page.items], next_page_token=page.next_token
        )

    async def DeleteTag(
        self, request: registry_pb2.DeleteTagRequest, context: Context
    ) -> registry_pb2.DeleteTagResponse:
        await in_thread(self._tags.delete, TagName.parse(request.name), actor=caller().name)
        return registry_pb2.DeleteTagResponse()

    async def CollectGarbage(
        self, request: registry_pb2.CollectGarbageRequest, context: Context
    ) -> AsyncIterator[registry_pb2.CollectGarbageResponse]:
        async with aclosing(self._collector.collect(dry_run=request.dry_run, actor=caller().name)) as news:
            async for each in news:
                yield as_response(each)

    async def WatchChannels(
        self, request: registry_pb2.WatchChannelsRequest, context: Context
    ) -> AsyncIterator[registry_pb2.WatchChannelsResponse]:
        if len(request.names) > MAX_WATCHED:
            raise BadRequest(
                f"a watch of {len(request.names)} channels", hint=f"name at most {MAX_WATCHED}, or none for all"
            )
        names = [ChannelName.parse(name) for name in request.names]
        with self._hub.watching(names) as watcher:
            for present in await in_thread(self._catalog.channels, names):
                watcher.offer(present)
            async for channel in watcher.states():
                yield registry_pb2.WatchChannelsResponse(channel=channel.to_proto())

    async def PlanUpdate(
        self, request: registry_pb2.PlanUpdateRequest, context: Context
    ) -> registry_pb2.PlanUpdateResponse:
        if len(request.have) > MAX_HELD:
            raise BadRequest(f"{len(request.have)} revisions held", hint=f"name at most {MAX_HELD}")
        want, limits = RevisionName.parse(request.want), limits_of(request)
        names = {name.revision: name for name in map(RevisionName.parse, request.have)}
        wanted = await in_thread(self._catalog.revision, want)
        manifest = await self._manifest(wanted)
        # Any model's: the same weights in another quantisation are often another model.
        held = [
            found for each in await in_thread(self._catalog.named, list(names)) if (found := await self._held(each))
        ]
        plan = await self._deltas.plan(manifest, held, limits)
        between = [str(step.target) for step in plan.deltas]
        known = {each.name.revision: each.name for each in await in_thread(self._catalog.named, between)}
        known |= names | {want.revision: want}
        return answer(
            wanted.to_proto(), plan, lambda digest: known.get(str(digest), RevisionName(want.model, str(digest)))
        )

    async def _held(self, revision: Revision) -> Manifest | None:
        """A plan can do without a held revision whose manifest cannot be read."""
        try:
            return await self._manifest(revision)
        except DeltaicError as error:
            _log.warning("plan.held_left_out", revision=str(revision.name), message=error.message)
            return None

    async def _manifest(self, revision: Revision) -> Manifest:
        return await self._manifests.get(Digest.parse(revision.name.revision, revision.manifest_bytes))
