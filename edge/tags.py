"""Tags: asked of the center, and remembered on disk, so that a name that was used once is known without a line.

    <data>/tags.json      {"format": 1, "tags": {"models/NAME/tags/TAG": "models/NAME/revisions/sha256:HEX"}}

A tag is fixed: what it names does not change while it exists. One that was removed at the center is forgotten when the
center says so.
"""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import structlog

from deltaic.errors import Code, DeltaicError
from deltaic.names import ChannelName, RevisionName, TagName
from deltaic.rpc.status import from_rpc_error
from deltaic.store.disk import write_whole
from deltaic.v1 import registry_pb2, registry_pb2_grpc
from edge.errors import CenterUnreachable, NotHeldHere

_log = structlog.get_logger(__name__)

TAGS_NAME = "tags.json"
FRESH_SECONDS = 60.0
MOST_TAGS = 10_000
_FORMAT = 1
_PAGE = 1_000
_MOST_PAGES = 10
_CALL_SECONDS = 2.0
_AGAIN_SECONDS = 2.0
"""So long after a failure nobody waits for the center again."""


class TagBook:
    """What the center said of tags. Lives on one event loop; `load` blocks."""

    def __init__(
        self, channel: grpc.aio.Channel, center: str, path: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`center` is for people: "center 10.0.0.1:7400"."""
        self._stub = registry_pb2_grpc.RegistryServiceStub(channel)
        self._center = center
        self._path = path
        self._clock = clock
        self._tags: dict[TagName, RevisionName] = {}
        self._asked_at: dict[str, float] = {}
        self._silent_until = 0.0
        self._asking: dict[str, asyncio.Task[None]] = {}

    def load(self) -> None:
        """Read the file; one that cannot be read is as good as absent, since the center will say it again."""
        try:
            content = json.loads(self._path.read_bytes())
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}; this program reads {_FORMAT}")
            written = content["tags"].items()
            self._tags = {TagName.parse(tag): RevisionName.parse(named) for tag, named in written}
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError, DeltaicError) as error:
            _log.error("tags.unreadable", path=str(self._path), error=str(error))

    async def resolve(self, tag: TagName, seconds: float) -> RevisionName:
        """What a tag names. Raises NotHeldHere; CenterUnreachable for one that was never heard of."""
        try:
            await self._refresh(tag.model, seconds)
        except (DeltaicError, TimeoutError):
            if tag not in self._tags:
                raise CenterUnreachable(
                    f"{tag} is not known here, and {self._center} does not say what it names",
                    hint="name the revision by its digest, or ask again when the line is back",
                    retry_after_ms="2000",
                ) from None
        if tag not in self._tags:
            raise NotHeldHere(f"no {tag}", hint="`deltaic tags` lists what there is")
        return self._tags[tag]

    async def perhaps(self, name: ChannelName, seconds: float) -> RevisionName | None:
        """What `NAME@WORD` means if the word is a tag; None when it is none, or nobody can say."""
        try:
            return await self.resolve(TagName.parse(f"models/{name.model}/tags/{name.channel}"), seconds)
        except DeltaicError:
            return None

    async def _refresh(self, model: str, seconds: float) -> None:
        """Ask for the tags of a model unless that was done of late; questions at the same time are one."""
        now = self._clock()
        if now - self._asked_at.get(model, -FRESH_SECONDS) < FRESH_SECONDS:
            return
        if now < self._silent_until:
            raise TimeoutError
        if model not in self._asking:
            task = self._asking[model] = asyncio.create_task(self._ask(model), name=f"tags of {model}")
            task.add_done_callback(lambda done: self._asked(model, done))
        async with asyncio.timeout(min(_CALL_SECONDS, seconds / 2)):
            await asyncio.shield(self._asking[model])

    def _asked(self, model: str, task: "asyncio.Task[None]") -> None:
        del self._asking[model]
        if task.cancelled() or task.exception() is not None:
            self._silent_until = self._clock() + _AGAIN_SECONDS
        else:
            if len(self._asked_at) > MOST_TAGS:
                self._asked_at.clear()
            self._asked_at[model] = self._clock()

    async def _ask(self, model: str) -> None:
        found: dict[TagName, RevisionName] = {}
        request = registry_pb2.ListTagsRequest(model=f"models/{model}", page_size=_PAGE)
        try:
            for _ in range(_MOST_PAGES):
                page = await self._stub.ListTags(request, timeout=_CALL_SECONDS)
                found |= {TagName.parse(each.name): RevisionName.parse(each.revision.name) for each in page.tags}
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
        except grpc.RpcError as failure:
            error = from_rpc_error(failure, self._center)
            if error.code is not Code.NOT_FOUND:
                raise error from None
        await self._learn(model, found)

    async def _learn(self, model: str, found: dict[TagName, RevisionName]) -> None:
        before = {tag: named for tag, named in self._tags.items() if tag.model == model}
        if before == found:
            return
        tags = {tag: named for tag, named in self._tags.items() if tag.model != model} | found
        self._tags = dict(list(tags.items())[-MOST_TAGS:])
        content = {"format": _FORMAT, "tags": {str(tag): str(named) for tag, named in self._tags.items()}}
        try:
            await asyncio.to_thread(write_whole, self._path, json.dumps(content, indent=1).encode() + b"\n")
        except (OSError, DeltaicError) as error:
            _log.error("tags.not_saved", error=str(error), hint="they are asked for again after a restart")
