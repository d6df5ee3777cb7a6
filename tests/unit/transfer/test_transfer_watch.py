"""Listening to channels: what an upstream says that only ever ends the stream."""

import asyncio
from typing import Any

import grpc

from deltaic.names import ChannelName
from deltaic.transfer.backoff import Retry
from deltaic.transfer.watch import ChannelWatch


class Late:
    """A stream that is over before it began."""

    def __aiter__(self) -> "Late":
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(0)
        none = grpc.aio.Metadata()
        raise grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, none, none, "its own upstream was late")

    def cancel(self) -> None:
        """There is nothing to end."""


class Upstream:
    """A channel all of whose streams are late."""

    def __init__(self) -> None:
        self.calls = 0

    def unary_stream(self, *_: Any, **__: Any) -> Any:
        return self._call

    def unary_unary(self, *_: Any, **__: Any) -> Any:
        return self._call

    def _call(self, *_: Any, **__: Any) -> Late:
        self.calls += 1
        return Late()


async def test_an_upstream_that_says_at_once_that_time_is_over_is_not_asked_in_a_tight_loop() -> None:
    upstream, pauses = Upstream(), []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            raise asyncio.CancelledError

    names = [ChannelName("tiny", "stable")]
    watch = ChannelWatch(upstream, "edge", names, lambda _state: None, retry=Retry(sleep=sleep))  # type: ignore[arg-type]
    running = asyncio.create_task(watch.run())
    await asyncio.wait({running}, timeout=5)
    assert running.cancel() is False, "it went on without a pause"
    assert upstream.calls == len(pauses) == 5
    assert min(pauses) >= 0.1
