"""The places that answer: workers of this edge, neighbours, and the center. A way in, an answer out."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TypeVar, cast

from deltaic.engine.relay import LeasedWorker, count_tokens, embed, generate
from deltaic.v1 import inference_pb2
from edge.branch.forwarding import Forwarding, of_neighbour
from edge.branch.lines import Lines
from edge.center_line import CenterLine
from edge.errors import NoTimeLeft
from edge.hot.hot_set import HotSet
from edge.route import Escalate, LoadThenLocal, Local, Target, ToNeighbour, Way

_Request = TypeVar("_Request", inference_pb2.GenerateRequest, inference_pb2.EmbedRequest)
_Stream = AsyncGenerator[inference_pb2.GenerateResponse, None]


class Places:
    """Opens ways. `until` is a moment of the event loop's clock."""

    def __init__(self, hot_set: HotSet, lines: Lines, center: CenterLine) -> None:
        self._hot_set = hot_set
        self._lines = lines
        self._center = center

    async def generate(self, way: Way, target: Target, request: inference_pb2.GenerateRequest, until: float) -> _Stream:
        """Stream the answer of one place. Raises what the place fails with; closing this ends it there."""
        match way:
            case Local() | LoadThenLocal():
                async with self._leased(way, until) as leased:
                    here = cast("_Stream", generate(leased, request, until - _now()))
                    async with aclosing(here) as pieces:
                        async for piece in pieces:
                            yield piece
            case ToNeighbour():
                async with self._neighbour(way) as there:
                    meaning, asked = of_neighbour(there.name), _asking(request, way.model)
                    async with aclosing(there.generate(asked, until - _now(), meaning)) as pieces:
                        async for piece in pieces:
                            yield piece
            case Escalate():
                asked = _asking(request, way.model)
                async with aclosing(self._center.generate(target, asked, until - _now())) as pieces:
                    async for piece in pieces:
                        yield piece

    async def embed(
        self, way: Way, target: Target, request: inference_pb2.EmbedRequest, until: float
    ) -> inference_pb2.EmbedResponse:
        """The vectors of one place. Raises as `generate` does."""
        match way:
            case ToNeighbour():
                async with self._neighbour(way) as there:
                    return await there.embed(_asking(request, way.model), until - _now(), of_neighbour(there.name))
            case Escalate():
                return await self._center.embed(target, _asking(request, way.model), until - _now())
            case _:
                async with self._leased(way, until) as leased:
                    return await embed(leased, request, until - _now())

    async def count_tokens(
        self, way: Way, request: inference_pb2.CountTokensRequest, until: float
    ) -> inference_pb2.CountTokensResponse:
        """The count of a worker here; `way` leads to one."""
        async with self._leased(way, until) as leased:
            return await count_tokens(leased, request, until - _now())

    @asynccontextmanager
    async def _neighbour(self, way: ToNeighbour) -> AsyncIterator[Forwarding]:
        async with self._lines.used(way.address) as channel:
            yield Forwarding(channel, way.node)

    @asynccontextmanager
    async def _leased(self, way: Way, until: float) -> AsyncIterator[LeasedWorker]:
        """The worker, leased until the context ends. Raises NotServed, NotHeldHere, HotSetFull, NoTimeLeft."""
        async with AsyncExitStack() as stack:
            if isinstance(way, Local):
                yield await stack.enter_async_context(self._hot_set.lease(way.key))
                return
            assert isinstance(way, LoadThenLocal), "only these are answered here"
            try:
                async with asyncio.timeout_at(until):
                    leased = await stack.enter_async_context(self._hot_set.load(way.revision))
            except TimeoutError:
                raise NoTimeLeft(
                    f"the deadline passed while {way.revision} was loading", hint="ask again, with more time"
                ) from None
            yield leased


def _asking(request: _Request, model: str) -> _Request:
    """The request for another node, by the model that this node resolved; an empty one is what was asked for."""
    asked = type(request)()
    asked.CopyFrom(request)
    asked.model = model or request.model
    return asked


def _now() -> float:
    return asyncio.get_running_loop().time()
