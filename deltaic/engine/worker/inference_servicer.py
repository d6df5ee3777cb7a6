"""The worker's side of `InferenceService`. The model that a request names was resolved before it came here."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc

from deltaic.engine.errors import WorkerStopping
from deltaic.engine.worker.answering import Event, Finished
from deltaic.engine.worker.executor import Executor, Loaded
from deltaic.engine.worker.job import Job
from deltaic.engine.worker.requests import prompt_tokens, to_job
from deltaic.errors import DeltaicError
from deltaic.names import RevisionName
from deltaic.v1 import inference_pb2, inference_pb2_grpc

ROLES = {
    "center": inference_pb2.NODE_ROLE_CENTER,
    "edge": inference_pb2.NODE_ROLE_EDGE,
    "device": inference_pb2.NODE_ROLE_DEVICE,
}

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Origin:
    """What every answer says about where it comes from. `role` is a key of ROLES."""

    revision: RevisionName
    node: str
    role: str


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """Runs on the event loop; `executor` decodes on its own thread."""

    def __init__(self, executor: Executor, origin: Origin) -> None:
        self._executor = executor
        self._origin = origin
        self._identifiers = itertools.count(1)

    async def Generate(
        self, request: inference_pb2.GenerateRequest, context: _Context
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        arrived = time.monotonic()
        remaining = context.time_remaining()
        deadline = float("inf") if remaining is None else arrived + remaining
        job = await asyncio.to_thread(to_job, request, self._loaded(), deadline)
        identifier = next(self._identifiers)
        events: asyncio.Queue[list[Event]] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def deliver(batch: list[Event]) -> None:
            loop.call_soon_threadsafe(events.put_nowait, batch)

        self._executor.submit(identifier, job, arrived, deliver)
        try:
            while True:
                for event in _merged(await _all_ready(events)):
                    if isinstance(event, Finished):
                        yield inference_pb2.GenerateResponse(completion=self._completion(job, event))
                        return
                    yield inference_pb2.GenerateResponse(text=event)
        finally:
            self._executor.cancel(identifier)

    async def CountTokens(
        self,
        request: inference_pb2.CountTokensRequest,
        context: _Context,  # noqa: ARG002  # part of the signature
    ) -> inference_pb2.CountTokensResponse:
        loaded = self._loaded()
        tokens = await asyncio.to_thread(prompt_tokens, request, loaded.model)
        return inference_pb2.CountTokensResponse(tokens=len(tokens), context_tokens=loaded.context_tokens)

    async def ListModels(
        self,
        request: inference_pb2.ListModelsRequest,  # noqa: ARG002
        context: _Context,  # noqa: ARG002
    ) -> inference_pb2.ListModelsResponse:
        served = inference_pb2.ServedModel(
            model=str(self._origin.revision.of_model),
            revision=str(self._origin.revision),
            context_tokens=self._loaded().context_tokens,
        )
        return inference_pb2.ListModelsResponse(models=[served])

    def _loaded(self) -> Loaded:
        if not self._executor.loaded.done():
            raise WorkerStopping("the worker has not loaded its model yet", hint="wait until it reports SERVING")
        return self._executor.loaded.result()

    def _completion(self, job: Job, finished: Finished) -> inference_pb2.Completion:
        reason = inference_pb2.Completion.FinishReason
        return inference_pb2.Completion(
            finish_reason=reason.FINISH_REASON_STOP if finished.stopped else reason.FINISH_REASON_LENGTH,
            usage=inference_pb2.Usage(prompt_tokens=len(job.prompt), completion_tokens=finished.generated),
            timings=inference_pb2.Timings(
                queue_ms=finished.queue_seconds * 1000,
                first_token_ms=finished.first_token_seconds * 1000,
                decode_ms=finished.decode_seconds * 1000,
            ),
            revision=str(self._origin.revision),
            answered_by=ROLES[self._origin.role],
            node=self._origin.node,
        )


async def _all_ready(events: "asyncio.Queue[list[Event]]") -> list[Event]:
    """Wait for events; take with them whatever else is there, so that a slow reader gets fewer and larger pieces."""
    ready = await events.get()
    while not events.empty():
        ready = ready + events.get_nowait()
    return ready


def _merged(events: list[Event]) -> list[str | Finished]:
    """Adjacent texts as one. Raises the error that ends an answer when there is no text to send before it."""
    merged: list[str | Finished] = []
    for event in events:
        if isinstance(event, DeltaicError):
            raise event
        if isinstance(event, str) and merged and isinstance(merged[-1], str):
            merged[-1] += event
        else:
            merged.append(event)
    return merged
