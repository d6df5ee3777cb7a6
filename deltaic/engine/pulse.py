"""Whether a worker lives: its heartbeats, which come from the thread that decodes, and the silence between them.

gRPC answers from other threads, so that it answers says nothing about a hang in native code. A heartbeat does.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

import grpc
import structlog

from deltaic.v1 import worker_pb2, worker_pb2_grpc

_log = structlog.get_logger(__name__)
_USUAL = 0.5
_CALL_SECONDS = 86_400.0
_AGAIN = 0.5


class Silence:
    """Seconds in which nothing was heard, counted in ticks.

    A tick counts for at most twice its length: a node that was itself stopped, or whose loop was held up, must not take
    its own absence for the worker's.
    """

    def __init__(self, tick: float, now: float) -> None:
        self._most = 2 * tick
        self._before = now
        self._heard = 0
        self.seconds = 0.0

    def tick(self, now: float, heard: int) -> float:
        """`heard` is how many heartbeats came so far; the seconds of silence up to `now`."""
        passed, self._before = min(now - self._before, self._most), now
        self.seconds = 0.0 if heard != self._heard else self.seconds + passed
        self._heard = heard
        return self.seconds


class Pulse:
    """The last heartbeat of a worker over all its incarnations. Lives on one event loop."""

    def __init__(self, on_beat: Callable[[], None] = lambda: None) -> None:
        self._on_beat = on_beat
        self._heard = 0
        self.last: worker_pb2.HeartbeatResponse | None = None

    async def until_silent(self, stub: "worker_pb2_grpc.WorkerServiceAsyncStub", limit: float) -> None:
        """Listen to one incarnation; return when it gave no sign of life for `limit` seconds."""
        tick = min(_USUAL, limit / 8)
        listening = asyncio.create_task(self._listen(stub, tick), name="heartbeats")
        self._heard, silence = 0, Silence(tick, time.monotonic())
        try:
            while silence.tick(time.monotonic(), self._heard) < limit:  # noqa: ASYNC110  # time is what is waited for
                await asyncio.sleep(tick)
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await listening

    async def _listen(self, stub: "worker_pb2_grpc.WorkerServiceAsyncStub", every: float) -> None:
        request = worker_pb2.HeartbeatRequest(interval_ms=round(every * 1000))
        while True:
            call = stub.Heartbeat(request, timeout=_CALL_SECONDS)
            at_once = True
            try:
                async for state in call:
                    self.last = state
                    # What a stream opens with is the state as it was found: it proves no beat.
                    self._heard += not at_once
                    at_once = False
                    self._on_beat()
            except grpc.aio.AioRpcError as error:
                _log.debug("worker.heartbeat_lost", code=error.code().name)
            finally:
                call.cancel()
            await asyncio.sleep(_AGAIN)
