"""Whole answers: pieces collected by choice, and their two shapes."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from deltaic.gateway.chunks import Label, tool_call
from deltaic.gateway.logprobs import chat_logprobs, legacy_logprobs
from deltaic.gateway.outcome import FINISH_REASONS, Outcome, fingerprint, origin
from deltaic.v1 import inference_pb2 as pb


@dataclass(slots=True)
class Choice:
    """One answer so far."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[pb.TokenLogprob] = field(default_factory=list)
    tool_calls: list[pb.ToolCall] = field(default_factory=list)
    finish_reason: str = "stop"

    def add(self, piece: pb.GenerateResponse) -> None:
        self.logprobs.extend(piece.logprobs)
        match piece.WhichOneof("event"):
            case "text":
                self.texts.append(piece.text)
            case "tool_call":
                self.tool_calls.append(piece.tool_call)
            case "completion":
                self.finish_reason = FINISH_REASONS.get(piece.completion.finish_reason, "stop")

    @property
    def text(self) -> str:
        return "".join(self.texts)


Shape = Callable[[int, Choice], dict[str, object]]


def chat_choice(index: int, choice: Choice) -> dict[str, object]:
    """A choice of a `chat.completion`."""
    message: dict[str, object] = {"role": "assistant", "content": choice.text, "refusal": None}
    if choice.tool_calls:
        message["tool_calls"] = [tool_call(call) for call in choice.tool_calls]
        message["content"] = choice.text or None
    return {
        "index": index,
        "message": message,
        "logprobs": chat_logprobs(choice.logprobs),
        "finish_reason": choice.finish_reason,
    }


def text_choice(index: int, choice: Choice) -> dict[str, object]:
    """A choice of a `text_completion`."""
    return {
        "index": index,
        "text": choice.text,
        "logprobs": legacy_logprobs(choice.logprobs, 0),
        "finish_reason": choice.finish_reason,
    }


def whole_body(label: Label, kind: str, shape: Shape, choices: dict[int, Choice], outcome: Outcome) -> bytes:
    """The body of an answer that is not streamed."""
    body = {
        **label.fields(kind),
        "system_fingerprint": fingerprint(outcome.last.revision),
        "choices": [shape(index, choice) for index, choice in sorted(choices.items())],
        "usage": outcome.usage(),
        "deltaic": origin(outcome.last),
    }
    return json.dumps(body).encode()
