"""A request handed to a leased worker, and what a worker's end means to its caller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc

from deltaic.engine.ending import Cause
from deltaic.engine.errors import OutOfTime, WorkerDied, WorkerHung, WorkerKilledForMemory, WorkerStopping
from deltaic.engine.spans import request_span
from deltaic.engine.supervisor import Worker
from deltaic.errors import DeltaicError
from deltaic.names import RevisionName
from deltaic.rpc.status import RemoteError, from_rpc_error
from deltaic.v1 import inference_pb2, inference_pb2_grpc


@dataclass(frozen=True, slots=True)
class LeasedWorker:
    """A worker that is not stopped before the lease ends."""

    worker: Worker
    revision: RevisionName

    @property
    def stub(self) -> "inference_pb2_grpc.InferenceServiceAsyncStub":
        """Raises WorkerRestarting when the process has just died; `Worker.ready` waits instead."""
        return self.worker.stub()


async def generate(
    leased: LeasedWorker, request: inference_pb2.GenerateRequest, remaining: float
) -> AsyncIterator[inference_pb2.GenerateResponse]:
    """Stream the worker's answer within `remaining` seconds.

    Raises WorkerDied, WorkerRestarting, WorkerStopping, OutOfTime, and what the worker itself refuses with.
    """
    with request_span(request, leased.revision) as span:
        stub = await leased.worker.ready(remaining)
        call = stub.Generate(request, timeout=remaining)
        try:
            async with _understood(leased):
                async for response in call:
                    span.saw(response)
                    yield response
        finally:
            call.cancel()


async def count_tokens(
    leased: LeasedWorker, request: inference_pb2.CountTokensRequest, remaining: float
) -> inference_pb2.CountTokensResponse:
    """The length of a prompt for the leased model. Raises as `generate` does."""
    stub = await leased.worker.ready(remaining)
    async with _understood(leased):
        return await stub.CountTokens(request, timeout=remaining)


async def embed(
    leased: LeasedWorker, request: inference_pb2.EmbedRequest, remaining: float
) -> inference_pb2.EmbedResponse:
    """Vectors by the leased model. Raises as `generate` does."""
    stub = await leased.worker.ready(remaining)
    async with _understood(leased):
        return await stub.Embed(request, timeout=remaining)


@asynccontextmanager
async def _understood(leased: LeasedWorker) -> AsyncIterator[None]:
    """Turn what gRPC raises for a call to a worker into our errors."""
    try:
        yield
    except grpc.RpcError as error:
        raise await _meaning(error, leased) from None
    except asyncio.CancelledError:
        # gRPC also raises this in a reader whose channel was closed by our side. A server that let it through would
        # send no status at all, and its client would wait until the deadline.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _lost(leased) from None


async def _meaning(error: grpc.RpcError, leased: LeasedWorker) -> DeltaicError:
    """What a failed call to a worker means; a lost connection is a dead worker, since both are on one machine."""
    known = from_rpc_error(error, f"the worker for {leased.revision.of_model}")
    if not isinstance(known, RemoteError):
        return known
    if known.reason in ("UNREACHABLE", "CANCELLED"):
        if not leased.worker.stopping:
            await leased.worker.notice_death()
        return _lost(leased)
    if known.reason == "DEADLINE_EXCEEDED":
        return OutOfTime("the deadline passed before the answer was complete")
    return known


def _lost(leased: LeasedWorker) -> DeltaicError:
    """What a caller is told whose worker is gone: what happened, and when it will probably be back."""
    worker = leased.worker
    again = {"hint": "send the request again", "revision": str(leased.revision)}
    if worker.stopping:
        return WorkerStopping("the worker was stopped before the answer was complete", **again)
    again["retry_after_ms"] = worker.retry_after_ms
    if worker.last_end.text:
        again["last_end"] = worker.last_end.text
    match worker.last_end.cause:
        case Cause.HUNG:
            return WorkerHung("the worker hung while it answered, and was killed", **again)
        case Cause.OUT_OF_MEMORY:
            return WorkerKilledForMemory("memory ran out while the worker answered, and the kernel ended it", **again)
        case _:
            return WorkerDied("the worker died while it answered", **again)
