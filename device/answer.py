"""Who answers: the device itself, or the node above for what may leave.

Every request is judged first. What must stay is answered here or not at all. What may leave is answered by the side
that `prefer` names when that side can, and by the other one otherwise; a line that breaks before the first text makes
this device answer, if it has the model.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, cast

import structlog

from deltaic.engine.errors import NotServed
from deltaic.engine.host import ModelHost
from deltaic.engine.listing import listed
from deltaic.engine.relay import count_tokens as relay_count_tokens
from deltaic.engine.relay import embed as relay_embed
from deltaic.engine.relay import generate as relay_generate
from deltaic.errors import Code, DeltaicError
from deltaic.names import ChannelName, RevisionName, parse_target
from deltaic.rpc.context import caller, request_id
from deltaic.v1 import fleet_pb2, inference_pb2
from device.decision_log import KEPT, SENT, DecisionLog
from device.egress import KeepLocal, KeepReason, Outbound, Policy, decide
from device.errors import CALLERS_FAULT, DecisionLogFailed, KeptOnDevice
from device.uplink import Uplink

_log = structlog.get_logger(__name__)

_Target = ChannelName | RevisionName
_Stream = AsyncGenerator[inference_pb2.GenerateResponse, None]


@dataclass(slots=True)
class Counts:
    """What this device did since it started."""

    answered: int = 0
    forwarded: int = 0
    failed: int = 0
    kept_local: int = 0

    def to_proto(self) -> fleet_pb2.RequestCounts:
        return fleet_pb2.RequestCounts(
            answered=self.answered, forwarded=self.forwarded, failed=self.failed, kept_local=self.kept_local
        )


@dataclass(frozen=True, slots=True)
class Manner:
    """How a device answers; `patience` is in seconds."""

    policy: Policy = field(default_factory=Policy)
    prefer: Literal["device", "edge"] = "device"
    patience: float = 10.0


class Answers:
    """Judges, records, answers or passes on."""

    def __init__(self, host: ModelHost, uplink: Uplink, decisions: DecisionLog, manner: Manner) -> None:
        self._host = host
        self._uplink = uplink
        self._decisions = decisions
        self._manner = manner
        self.counts = Counts()

    async def generate(self, request: inference_pb2.GenerateRequest, seconds: float) -> _Stream:
        """Stream the answer within `seconds`. Raises what the worker, the node above or this device has against it."""
        target = parse_target(request.model)
        until = asyncio.get_running_loop().time() + seconds
        try:
            async with aclosing(self._answer(request, target, until)) as stream:
                async for response in stream:
                    yield response
        except Exception as error:
            if not isinstance(error, DeltaicError) or error.code not in CALLERS_FAULT:
                self.counts.failed += 1
            raise

    async def embed(self, request: inference_pb2.EmbedRequest, seconds: float) -> inference_pb2.EmbedResponse:
        """Vectors by a model that is here: a text to embed never leaves, whatever its label. Raises NotServed."""
        until = asyncio.get_running_loop().time() + seconds
        async with self._host.lease(str(parse_target(request.model))) as worker:
            answer = await relay_embed(worker, request, _left(until))
        self.counts.answered += 1
        return answer

    async def count_tokens(
        self, request: inference_pb2.CountTokensRequest, seconds: float
    ) -> inference_pb2.CountTokensResponse:
        """Count with a model that is here; a prompt to count never leaves. Raises NotServed."""
        async with self._host.lease(str(parse_target(request.model))) as worker:
            return await relay_count_tokens(worker, request, seconds)

    async def list_models(self, _seconds: float) -> inference_pb2.ListModelsResponse:
        """What is here now."""
        return listed(self._host.serving())

    async def _answer(self, request: inference_pb2.GenerateRequest, target: _Target, until: float) -> _Stream:
        decision = await asyncio.to_thread(decide, request, self._manner.policy)
        if isinstance(decision, KeepLocal):
            stream = self._keep(request, target, until, decision)
        elif self._manner.prefer == "device" and self._has(target):
            stream = self._local(request, target, until)
        else:
            stream = self._forward(request, target, until, decision)
        async with aclosing(stream):
            async for response in stream:
                yield response

    async def _keep(
        self, request: inference_pb2.GenerateRequest, target: _Target, until: float, kept: KeepLocal
    ) -> _Stream:
        if kept.may_be_sensitive:
            self.counts.kept_local += 1
        try:
            await self._record(KEPT, target, reason=kept.reason, kinds=",".join(kept.kinds))
        except DecisionLogFailed as error:
            _log.error("egress.decision_not_recorded", reason=error.message)  # nothing leaves, so the answer may go on
        try:
            async with aclosing(self._local(request, target, until)) as stream:
                async for response in stream:
                    yield response
        except NotServed as error:
            raise self._cannot_keep(target, kept) from error

    async def _forward(
        self, request: inference_pb2.GenerateRequest, target: _Target, until: float, outbound: Outbound
    ) -> _Stream:
        has_here = self._has(target)
        has_text = False
        try:
            await self._record(SENT, target, to=self._uplink.target, bytes=str(len(outbound.serialised)))
            self.counts.forwarded += 1
            patience = min(self._manner.patience, _left(until) / 2) if has_here else None
            async with aclosing(self._uplink.generate(outbound, _left(until), first_within=patience)) as stream:
                async for response in stream:
                    has_text = has_text or bool(response.text) or not response.HasField("text")
                    yield response
        except DeltaicError as error:
            if has_text or not has_here or error.code is Code.INVALID_ARGUMENT:
                raise
            _log.info("answer.fell_back", code=error.code, reason=error.reason)
        else:
            return
        async with aclosing(self._local(request, target, until)) as stream:
            async for response in stream:
                yield response

    async def _local(self, request: inference_pb2.GenerateRequest, target: _Target, until: float) -> _Stream:
        async with (
            self._host.lease(str(target)) as worker,
            aclosing(cast("_Stream", relay_generate(worker, request, _left(until)))) as stream,
        ):
            async for response in stream:
                yield response
        self.counts.answered += 1

    def _has(self, target: _Target) -> bool:
        return any(str(target) in (served.key, str(served.revision)) for served in self._host.serving())

    async def _record(self, action: str, target: _Target, **details: str) -> None:
        await self._decisions.record(
            action, actor=caller().name, resource=str(target), details={"request_id": request_id(), **details}
        )

    def _cannot_keep(self, target: _Target, kept: KeepLocal) -> KeptOnDevice:
        here = ", ".join(sorted({served.key for served in self._host.serving()}))
        have = f"this device has {here}" if here else "this device has no model yet"
        if not kept.may_be_sensitive:
            return KeptOnDevice(
                f"{target} is not on this device, whose policy sends no request away", hint=have, kept=kept.reason
            )
        return KeptOnDevice(
            f"{target} is not on this device, and the request must stay here: {_WHY[kept.reason]}",
            hint=have,
            kept=kept.reason,
            kinds=",".join(kept.kinds),
        )


_WHY = {
    KeepReason.LABELLED_SENSITIVE: "it is labelled sensitive",
    KeepReason.UNLABELLED: "nobody labelled it public",
    KeepReason.DETECTED: "it seems to hold a value that must not leave",
    KeepReason.GUARD_FAILED: "it could not be judged",
}


def _left(until: float) -> float:
    return until - asyncio.get_running_loop().time()
