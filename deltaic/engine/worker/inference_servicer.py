"""The worker's side of `InferenceService`. The model that a request names was resolved before it came here."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from deltaic.engine.errors import WorkerStopping
from deltaic.engine.worker.answering import Embedded, Event, Finished, Piece
from deltaic.engine.worker.embedding import EmbedJob
from deltaic.engine.worker.executor import Executor, Loaded
from deltaic.engine.worker.job import Job
from deltaic.engine.worker.requests import embed_inputs, prompt_tokens, to_job
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
        job = await asyncio.to_thread(to_job, request, self._loaded(), _deadline(context, arrived))
        left = job.choices
        with self._mailbox() as (identifier, events):
            self._executor.submit(identifier, job, arrived, events.put_nowait)
            while left:
                for event in merged(await _all_ready(events)):
                    if isinstance(event, Finished):
                        left -= 1
                        yield self._end_of_choice(job, event)
                    elif isinstance(event, Piece):
                        yield _piece(event)

    async def Embed(self, request: inference_pb2.EmbedRequest, context: _Context) -> inference_pb2.EmbedResponse:
        deadline, loaded = _deadline(context, time.monotonic()), self._loaded()
        inputs = await asyncio.to_thread(embed_inputs, request, loaded.model, loaded.context_tokens)
        with self._mailbox() as (identifier, events):
            self._executor.embed(identifier, EmbedJob(inputs, deadline, events.put_nowait))
            (event,) = merged(await events.get())
        assert isinstance(event, Embedded)
        return inference_pb2.EmbedResponse(
            embeddings=[inference_pb2.EmbedResponse.Embedding(values=vector) for vector in event.vectors],
            usage=inference_pb2.Usage(prompt_tokens=event.tokens),
            revision=str(self._origin.revision),
            answered_by=ROLES[self._origin.role],
            node=self._origin.node,
        )

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
            adapters=self._executor.adapters,
        )
        return inference_pb2.ListModelsResponse(models=[served])

    def _loaded(self) -> Loaded:
        if not self._executor.loaded.done():
            raise WorkerStopping("the worker has not loaded its model yet", hint="wait until it reports SERVING")
        return self._executor.loaded.result()

    @contextmanager
    def _mailbox(self) -> Iterator[tuple[int, "asyncio.Queue[list[Event]]"]]:
        """A number for a job and where its events arrive; the job is cancelled at the end."""
        identifier = next(self._identifiers)
        try:
            yield identifier, asyncio.Queue()
        finally:
            self._executor.cancel(identifier)

    def _end_of_choice(self, job: Job, finished: Finished) -> inference_pb2.GenerateResponse:
        completion = inference_pb2.Completion(
            finish_reason=finished.reason,
            usage=inference_pb2.Usage(
                prompt_tokens=len(job.prompt),
                completion_tokens=finished.generated,
                cached_tokens=finished.cached,
            ),
            timings=inference_pb2.Timings(
                queue_ms=finished.queue_seconds * 1000,
                first_token_ms=finished.first_token_seconds * 1000,
                decode_ms=finished.decode_seconds * 1000,
            ),
            revision=str(self._origin.revision),
            answered_by=ROLES[self._origin.role],
            node=self._origin.node,
        )
        return inference_pb2.GenerateResponse(completion=completion, choice=finished.choice)


def _deadline(context: _Context, now: float) -> float:
    remaining = context.time_remaining()
    return float("inf") if remaining is None else now + remaining


def _piece(piece: Piece) -> inference_pb2.GenerateResponse:
    response = inference_pb2.GenerateResponse(choice=piece.choice, logprobs=piece.logprobs)
    if isinstance(piece.content, str):
        response.text = piece.content
    else:
        response.tool_call.CopyFrom(piece.content)
    return response


async def _all_ready(events: "asyncio.Queue[list[Event]]") -> list[Event]:
    """Wait for events; take with them whatever else is there, so that a slow reader gets fewer and larger pieces."""
    ready = await events.get()
    while not events.empty():
        ready = ready + events.get_nowait()
    return ready


def merged(events: list[Event]) -> list[Event]:
    """Adjacent texts of a choice as one. Raises the error that ends an answer."""
    joined: list[Event] = []
    for event in events:
        if isinstance(event, DeltaicError):
            raise event
        before = joined[-1] if joined else None
        if (
            isinstance(event, Piece)
            and isinstance(before, Piece)
            and before.choice == event.choice
            and isinstance(before.content, str)
            and isinstance(event.content, str)
        ):
            joined[-1] = Piece(event.choice, before.content + event.content, before.logprobs + event.logprobs)
        else:
            joined.append(event)
    return joined
