"""Who answers which request, what is recorded before it, and what happens when a side fails."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from played_node import serving

from deltaic.engine.errors import NotServed, QueueFull
from deltaic.errors import BadName, Code, DeltaicError, InvalidArgument, Unavailable
from deltaic.names import RevisionName
from deltaic.rpc.context import enter_call
from deltaic.trust.audit import verify
from deltaic.trust.identity import Identity
from deltaic.v1 import inference_pb2
from device import answer
from device.answer import Answers, Manner
from device.decision_log import DecisionLog, read_decisions
from device.egress import Outbound, Policy
from device.errors import KeptOnDevice, UpstreamSlow

PUBLIC, SENSITIVE = inference_pb2.SENSITIVITY_PUBLIC, inference_pb2.SENSITIVITY_SENSITIVE
HERE = "models/m/channels/stable"
REVISION = "models/m/revisions/sha256:" + "ab" * 32


@dataclass
class Side:
    """One side that may answer: yields its name, then ends, or fails before or after some text."""

    name: str
    error: DeltaicError | None = None
    fails_after_text: bool = False
    asked: list[inference_pb2.GenerateRequest] = field(default_factory=list)

    async def stream(self, request: inference_pb2.GenerateRequest) -> AsyncIterator[inference_pb2.GenerateResponse]:
        self.asked.append(request)
        if self.error and not self.fails_after_text:
            raise self.error
        yield inference_pb2.GenerateResponse(text=self.name)
        if self.error:
            raise self.error
        yield inference_pb2.GenerateResponse(completion=inference_pb2.Completion(node=self.name))


class Host:
    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def serving(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(key=key, revision=RevisionName.parse(REVISION)) for key in self.keys]

    @asynccontextmanager
    async def lease(self, key: str) -> AsyncIterator[str]:
        if key not in self.keys and not (self.keys and key == REVISION):
            raise NotServed(f"{key} is not served")
        yield key


class Link:
    target = "upstream edge"

    def __init__(self, side: Side, log_seen: Callable[[], list[str]]) -> None:
        self.side = side
        self.log_seen = log_seen
        self.recorded_at_send: list[str] = []
        self.first_within: list[float | None] = []

    async def generate(
        self, outbound: Outbound, seconds: float, *, first_within: float | None = None
    ) -> AsyncIterator[inference_pb2.GenerateResponse]:
        assert isinstance(outbound, Outbound)
        assert seconds > 0
        self.first_within.append(first_within)
        self.recorded_at_send = self.log_seen()
        async for response in self.side.stream(outbound.request()):
            yield response


class World:
    """A device whose two sides are played; the judge and the decision log are the real ones."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.device = Side("device")
        self.edge = Side("edge")
        self.host = Host([HERE])
        self.link = Link(self.edge, self.decisions)
        self.log = DecisionLog(path)
        self.manner = Manner()
        self.counted: answer.Counts | None = None
        monkeypatch.setattr(answer, "relay_generate", lambda _worker, request, _seconds: self.device.stream(request))

    def decisions(self) -> list[str]:
        if not self.path.exists():
            return []
        entries = list(read_decisions(self.path))
        verify(entries)
        return [f"{entry.action} {entry.details.get('reason', entry.details.get('to'))}" for entry in entries]

    async def ask(self, text: str = "hello", model: str = "models/m", label: int = PUBLIC) -> str:
        enter_call("0" * 32, Identity("teller", frozenset()))
        answers = Answers(self.host, self.link, self.log, self.manner)  # type: ignore[arg-type]
        self.counted = answers.counts
        asked = inference_pb2.GenerateRequest(
            model=model, messages=[inference_pb2.ChatMessage(role="user", content=text)], sensitivity=label
        )
        said = ""
        async for response in answers.generate(asked, 10.0):
            said += response.text
            if response.HasField("completion"):
                assert response.completion.node == said[-len(response.completion.node) :]
        return said

    def counts(self) -> tuple[int, int, int, int]:
        assert self.counted is not None
        return self.counted.answered, self.counted.forwarded, self.counted.failed, self.counted.kept_local


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path / "egress.jsonl", monkeypatch)


@pytest.mark.parametrize("model", ["m", "models/m", HERE, REVISION])
async def test_a_public_request_for_a_model_that_is_here_is_answered_here(world: World, model: str) -> None:
    assert await world.ask(model=model) == "device"
    assert world.edge.asked == []
    assert world.counts() == (1, 0, 0, 0)


async def test_a_public_request_for_a_model_that_is_not_here_is_passed_on(world: World) -> None:
    assert await world.ask(model="models/other") == "edge"
    assert world.counts() == (0, 1, 0, 0)
    assert world.link.first_within == [None]


async def test_a_device_told_to_prefer_the_edge_passes_public_requests_on(world: World) -> None:
    world.manner = Manner(prefer="edge", patience=3.0)
    assert await world.ask() == "edge"
    assert world.link.first_within == [3.0]


async def test_sending_is_recorded_before_anything_is_sent(world: World) -> None:
    await world.ask(model="models/other")
    assert world.link.recorded_at_send == ["EGRESS_SENT upstream edge"]


@pytest.mark.parametrize(
    ("label", "text", "reason"),
    [
        (SENSITIVE, "hello", "LABELLED_SENSITIVE"),
        (inference_pb2.SENSITIVITY_UNSPECIFIED, "hello", "UNLABELLED"),
        (77, "hello", "UNLABELLED"),
        (PUBLIC, "card 4111 1111 1111 1111", "DETECTED"),
    ],
)
@pytest.mark.parametrize("prefer", ["device", "edge"])
async def test_what_must_stay_is_answered_here_whatever_is_preferred(
    world: World, label: int, text: str, reason: str, prefer: str
) -> None:
    world.manner = Manner(prefer=prefer)  # type: ignore[arg-type]
    assert await world.ask(text, label=label) == "device"
    assert world.edge.asked == []
    assert world.decisions() == [f"EGRESS_KEPT {reason}"]
    assert world.counts() == (1, 0, 0, 1)


@pytest.mark.parametrize("label", [SENSITIVE, inference_pb2.SENSITIVITY_UNSPECIFIED])
async def test_what_must_stay_and_needs_a_model_from_elsewhere_is_refused(world: World, label: int) -> None:
    with pytest.raises(KeptOnDevice) as caught:
        await world.ask(model="models/other", label=label)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert caught.value.reason == "SENSITIVE_NEEDS_LOCAL_MODEL"
    assert HERE in caught.value.hint
    assert world.edge.asked == []
    assert world.counts() == (0, 0, 0, 1)


async def test_a_refusal_names_kinds_and_never_values(world: World) -> None:
    with pytest.raises(KeptOnDevice) as caught:
        await world.ask("my mail is li.wei@example.org", model="models/other")
    assert caught.value.metadata["kinds"] == "EMAIL_ADDRESS"
    assert "li.wei" not in repr(caught.value) + str(caught.value.metadata) + world.path.read_text()


async def test_a_device_without_any_model_says_so(world: World) -> None:
    world.host = Host([])
    with pytest.raises(KeptOnDevice, match="no model yet"):
        await world.ask(label=SENSITIVE)


async def test_an_offline_device_refuses_a_public_request_that_it_cannot_answer(world: World) -> None:
    world.manner = Manner(Policy(offline_only=True))
    with pytest.raises(KeptOnDevice, match="policy"):
        await world.ask(model="models/other")
    assert await world.ask() == "device"
    assert world.edge.asked == []
    assert world.counts() == (1, 0, 0, 0)


@pytest.mark.parametrize("error", [Unavailable("cut"), QueueFull("full"), UpstreamSlow("slow"), NotServed("unknown")])
async def test_a_failure_of_the_edge_before_any_text_is_answered_here(world: World, error: DeltaicError) -> None:
    world.manner = Manner(prefer="edge")
    world.edge.error = error
    assert await world.ask() == "device"
    assert world.counts() == (1, 1, 0, 0)


async def test_a_failure_of_the_edge_after_some_text_is_the_callers_to_see(world: World) -> None:
    world.manner = Manner(prefer="edge")
    world.edge.error, world.edge.fails_after_text = Unavailable("cut"), True
    with pytest.raises(Unavailable):
        await world.ask()
    assert world.device.asked == []
    assert world.counts() == (0, 1, 1, 0)


async def test_a_failure_of_the_edge_is_passed_on_when_the_model_is_not_here(world: World) -> None:
    world.edge.error = Unavailable("cut")
    with pytest.raises(Unavailable, match="cut"):
        await world.ask(model="models/other")
    assert world.counts() == (0, 1, 1, 0)


async def test_a_request_that_the_edge_finds_wrong_is_not_tried_here(world: World) -> None:
    world.manner = Manner(prefer="edge")
    world.edge.error = InvalidArgument("too long")
    with pytest.raises(InvalidArgument):
        await world.ask()
    assert world.device.asked == []
    assert world.counts() == (0, 1, 0, 0)


async def test_nothing_is_sent_when_the_decision_cannot_be_recorded(world: World, tmp_path: Path) -> None:
    world.log = DecisionLog(tmp_path / "absent" / "egress.jsonl")
    with pytest.raises(DeltaicError) as caught:
        await world.ask(model="models/other")
    assert caught.value.reason == "DECISION_LOG_FAILED"
    assert world.edge.asked == []


@pytest.mark.parametrize("label", [PUBLIC, SENSITIVE])
async def test_answers_from_here_go_on_when_the_decision_log_cannot_be_written(
    world: World, tmp_path: Path, label: int
) -> None:
    world.log = DecisionLog(tmp_path / "absent" / "egress.jsonl")
    world.manner = Manner(prefer="edge")
    assert await world.ask(label=label) == "device"
    assert world.edge.asked == []


async def test_a_failure_of_the_own_worker_never_sends_a_sensitive_request_away(world: World) -> None:
    world.device.error = Unavailable("the worker died")
    with pytest.raises(Unavailable):
        await world.ask(label=SENSITIVE)
    assert world.edge.asked == []
    assert world.counts() == (0, 0, 1, 1)


async def test_a_name_that_is_not_a_name_is_refused_before_anything_else(world: World) -> None:
    with pytest.raises(BadName):
        await world.ask(model="models/../x", label=SENSITIVE)
    assert world.decisions() == []


async def test_a_client_that_leaves_ends_the_answer_on_the_side_that_gives_it(world: World) -> None:
    ended = asyncio.Event()

    async def endless(_request: inference_pb2.GenerateRequest) -> AsyncIterator[inference_pb2.GenerateResponse]:
        try:
            while True:
                yield inference_pb2.GenerateResponse(text=".")
        finally:
            ended.set()

    world.device.stream = endless  # type: ignore[method-assign]
    enter_call("0" * 32, Identity("teller", frozenset()))
    answers = Answers(world.host, world.link, world.log, world.manner)  # type: ignore[arg-type]
    stream = answers.generate(inference_pb2.GenerateRequest(model="m", prompt="x"), 10.0)
    assert (await anext(stream)).text == "."
    await stream.aclose()
    assert ended.is_set()


async def test_texts_to_embed_and_to_count_stay_here_even_when_they_are_public(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "egress.jsonl", monkeypatch)

    async def embed(worker: str, _request: object, remaining: float) -> inference_pb2.EmbedResponse:
        assert remaining > 0
        return inference_pb2.EmbedResponse(node=worker)

    monkeypatch.setattr(answer, "relay_embed", embed)
    answers = Answers(world.host, world.link, world.log, world.manner)  # type: ignore[arg-type]
    here = inference_pb2.EmbedRequest(model="m", inputs=["x"], sensitivity=PUBLIC)
    assert (await answers.embed(here, 5.0)).node == HERE
    for asked in (
        answers.embed(inference_pb2.EmbedRequest(model="other", inputs=["x"], sensitivity=PUBLIC), 5.0),
        answers.count_tokens(inference_pb2.CountTokensRequest(model="other", prompt="x"), 5.0),
    ):
        with pytest.raises(NotServed):
            await asked
    assert world.edge.asked == []


async def test_over_http_the_same_guard_judges(world: World) -> None:
    answers = Answers(world.host, world.link, world.log, world.manner)  # type: ignore[arg-type]
    card = [{"role": "user", "content": "my card is 4111 1111 1111 1111"}]
    public = {"x_deltaic_sensitivity": "public", "authorization": "Bearer sk-1"}

    async def said(**fields: object) -> str:
        return str((await face.chat(stream=True, **fields)).raw.decode())  # type: ignore[arg-type]

    async with serving(answers) as face:  # type: ignore[arg-type]
        assert '"content": "device"' in await said(model="m")
        assert "sensitive_needs_local_model" in await said(model="other")
        assert "sensitive_needs_local_model" in await said(model="other", messages=card, headers=public)
        assert world.edge.asked == []
        assert '"content": "edge"' in await said(model="other", headers=public)
    assert world.edge.asked[0].messages[0].content == "hi"
    assert b"sk-1" not in world.edge.asked[0].SerializeToString()
    assert world.decisions()[-1] == "EGRESS_SENT upstream edge"
