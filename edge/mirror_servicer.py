"""RegistryService as an edge offers it to its devices: the reading half, of what is complete here."""

# ruff: noqa: ARG002  # gRPC passes a context to every method

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from deltaic.errors import InvalidArgument
from deltaic.names import ChannelName, ModelName, RevisionName
from deltaic.rpc.pages import page_of
from deltaic.transfer.deltas.service import DeltaService
from deltaic.transfer.plan_messages import MAX_HELD, answer, limits_of
from deltaic.v1 import registry_pb2, registry_pb2_grpc
from edge.errors import NotHeldHere, OnlyAtCenter
from edge.mirror import Mirror

MAX_WATCHED = 1_000

_Context = grpc.aio.ServicerContext[Any, Any]


class MirrorServicer(registry_pb2_grpc.RegistryServiceServicer):
    """Stateless but for what it is given."""

    def __init__(self, mirror: Mirror, deltas: DeltaService, center: str) -> None:
        """`center` is the address that callers of the writing half are sent to."""
        self._mirror = mirror
        self._deltas = deltas
        self._center = center

    async def PublishRevision(
        self, request: registry_pb2.PublishRevisionRequest, context: _Context
    ) -> registry_pb2.PublishRevisionResponse:
        raise self._refusal("publish")

    async def SetChannel(
        self, request: registry_pb2.SetChannelRequest, context: _Context
    ) -> registry_pb2.SetChannelResponse:
        raise self._refusal("move channels")

    async def CreateTag(
        self, request: registry_pb2.CreateTagRequest, context: _Context
    ) -> registry_pb2.CreateTagResponse:
        raise self._refusal("tag revisions")

    async def ListTags(self, request: registry_pb2.ListTagsRequest, context: _Context) -> registry_pb2.ListTagsResponse:
        raise self._refusal("know tags")

    async def DeleteTag(
        self, request: registry_pb2.DeleteTagRequest, context: _Context
    ) -> registry_pb2.DeleteTagResponse:
        raise self._refusal("untag revisions")

    async def CollectGarbage(
        self, request: registry_pb2.CollectGarbageRequest, context: _Context
    ) -> AsyncIterator[registry_pb2.CollectGarbageResponse]:
        self._refuse("collect")
        yield registry_pb2.CollectGarbageResponse()  # never reached; without it this is no stream

    async def GetRevision(
        self, request: registry_pb2.GetRevisionRequest, context: _Context
    ) -> registry_pb2.GetRevisionResponse:
        return registry_pb2.GetRevisionResponse(revision=self._mirror.revision(RevisionName.parse(request.name)))

    async def ListRevisions(
        self, request: registry_pb2.ListRevisionsRequest, context: _Context
    ) -> registry_pb2.ListRevisionsResponse:
        model = ModelName.parse(request.model)
        revisions = self._mirror.revisions(model)
        if not revisions:
            raise NotHeldHere(f"no {model} at this edge", hint="ask the center for it")
        page = page_of(revisions, _newest_first, request.page_size, request.page_token)
        return registry_pb2.ListRevisionsResponse(revisions=page.items, next_page_token=page.next_token)

    async def GetChannel(
        self, request: registry_pb2.GetChannelRequest, context: _Context
    ) -> registry_pb2.GetChannelResponse:
        return registry_pb2.GetChannelResponse(channel=self._mirror.channel(ChannelName.parse(request.name)))

    async def ListChannels(
        self, request: registry_pb2.ListChannelsRequest, context: _Context
    ) -> registry_pb2.ListChannelsResponse:
        channels = self._mirror.channels(ModelName.parse(request.model) if request.model else None)
        page = page_of(channels, lambda channel: channel.name, request.page_size, request.page_token)
        return registry_pb2.ListChannelsResponse(channels=page.items, next_page_token=page.next_token)

    async def WatchChannels(
        self, request: registry_pb2.WatchChannelsRequest, context: _Context
    ) -> AsyncIterator[registry_pb2.WatchChannelsResponse]:
        if len(request.names) > MAX_WATCHED:
            raise InvalidArgument(
                f"a watch of {len(request.names)} channels", hint=f"name at most {MAX_WATCHED}, or none for all"
            )
        names = frozenset(ChannelName.parse(name) for name in request.names)
        async with aclosing(self._mirror.watch(names)) as states:
            async for channel in states:
                yield registry_pb2.WatchChannelsResponse(channel=channel)

    async def PlanUpdate(
        self, request: registry_pb2.PlanUpdateRequest, context: _Context
    ) -> registry_pb2.PlanUpdateResponse:
        if len(request.have) > MAX_HELD:
            raise InvalidArgument(f"{len(request.have)} revisions held", hint=f"name at most {MAX_HELD}")
        want, limits = RevisionName.parse(request.want), limits_of(request)
        revision, manifest = self._mirror.revision(want), self._mirror.manifest(want)
        names = {name.hex: name for name in map(RevisionName.parse, request.have)}
        have = [held for hex_ in names if (held := self._mirror.manifest_of_any(hex_)) is not None]
        assert manifest is not None, "a revision that is shown has a manifest"
        plan = await self._deltas.plan(manifest, have, limits)
        names[want.hex] = want
        return answer(revision, plan, lambda digest: names.get(digest.hex, RevisionName(want.model, str(digest))))

    def _refuse(self, action: str) -> None:
        raise self._refusal(action)

    def _refusal(self, action: str) -> OnlyAtCenter:
        return OnlyAtCenter(f"an edge does not {action}", hint=f"ask the center at {self._center}", center=self._center)


def _newest_first(revision: registry_pb2.Revision) -> str:
    """A key whose ascending order is by creation time, the newest first."""
    return f"{(1 << 62) - revision.create_time.ToMicroseconds():020d}{revision.name}"
