"""Server-sent events of an answer. What does not change is made once a stream; of a text, only itself is encoded."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from deltaic.gateway.logprobs import chat_logprobs, legacy_logprobs, length_of
from deltaic.gateway.outcome import FINISH_REASONS, Outcome, fingerprint, origin
from deltaic.v1 import inference_pb2 as pb

DONE = b"data: [DONE]\n\n"

# Plain ASCII: some readers of events take U+2028 and its like for line ends.
_encode: Callable[[str], str] = json.JSONEncoder().encode


@dataclass(frozen=True, slots=True)
class Label:
    """What every body and chunk of one answer begins with; `created` in seconds since 1970."""

    id: str
    created: int
    model: str

    def fields(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


class Chunks(Protocol):
    """Pieces of an answer to events."""

    def of(self, piece: pb.GenerateResponse) -> bytes:
        """The events of one piece."""

    def end(self, outcome: Outcome) -> bytes:
        """The last events of the stream."""


class _Events:
    """What both shapes share."""

    def __init__(self, label: Label, kind: str, *, with_usage: bool) -> None:
        usage: dict[str, object] = {"usage": None} if with_usage else {}
        self._fields = label.fields(kind)
        self._with_usage = with_usage
        self._always = {**self._fields, **usage}
        self._opening = b"data: " + json.dumps(self._always).encode()[:-1] + b', "choices": [{"index": '

    def opening(self, choice: int, key: str) -> bytes:
        """An event of a choice up to the text that follows `key`."""
        return self._opening + b"%d, %s" % (choice, key.encode())

    def event(self, choice: dict[str, object], more: dict[str, object] | None = None) -> bytes:
        return b"data: " + json.dumps({**self._always, "choices": [choice], **(more or {})}).encode() + b"\n\n"

    def last(self, choice: dict[str, object], completion: pb.Completion) -> bytes:
        """The event that ends a choice, which says where it was made."""
        reason = FINISH_REASONS.get(completion.finish_reason, "stop")
        more: dict[str, object] = {
            "system_fingerprint": fingerprint(completion.revision),
            "deltaic": origin(completion),
        }
        return self.event({**choice, "logprobs": None, "finish_reason": reason}, more)

    def end(self, outcome: Outcome) -> bytes:
        if not self._with_usage:
            return DONE
        usage = {**self._fields, "choices": [], "usage": outcome.usage()}
        return b"data: " + json.dumps(usage).encode() + b"\n\n" + DONE


class ChatChunks:
    """`chat.completion.chunk`: the role first, then text or calls of tools, then why it ended."""

    _CLOSING = b'}, "logprobs": null, "finish_reason": null}]}\n\n'

    def __init__(self, label: Label, *, with_usage: bool) -> None:
        self._events = _Events(label, "chat.completion.chunk", with_usage=with_usage)
        self._openings: dict[int, bytes] = {}
        self._calls: defaultdict[int, int] = defaultdict(int)

    def of(self, piece: pb.GenerateResponse) -> bytes:
        opening = self._openings.get(piece.choice)
        if opening is None:
            return self._role(piece.choice) + self.of(piece)
        kind = piece.WhichOneof("event")
        if kind == "text" and not piece.logprobs:
            return opening + _encode(piece.text).encode() + self._CLOSING
        found = b""
        if piece.logprobs or kind == "text":
            found = self._delta(piece, {"content": piece.text}, chat_logprobs(piece.logprobs))
        if kind == "tool_call":
            found += self._delta(piece, {"tool_calls": [self._call(piece)]}, None)
        if kind == "completion":
            found += self._events.last({"index": piece.choice, "delta": {}}, piece.completion)
        return found

    def end(self, outcome: Outcome) -> bytes:
        return self._events.end(outcome)

    def _role(self, choice: int) -> bytes:
        self._openings[choice] = self._events.opening(choice, '"delta": {"content": ')
        delta = {"role": "assistant", "content": ""}
        return self._events.event({"index": choice, "delta": delta, "logprobs": None, "finish_reason": None})

    def _delta(self, piece: pb.GenerateResponse, delta: dict[str, object], logprobs: dict[str, object] | None) -> bytes:
        return self._events.event({"index": piece.choice, "delta": delta, "logprobs": logprobs, "finish_reason": None})

    def _call(self, piece: pb.GenerateResponse) -> dict[str, object]:
        index = self._calls[piece.choice]
        self._calls[piece.choice] += 1
        return {"index": index, **tool_call(piece.tool_call)}


class TextChunks:
    """`text_completion`: text, then why it ended."""

    _CLOSING = b', "logprobs": null, "finish_reason": null}]}\n\n'

    def __init__(self, label: Label, *, with_usage: bool) -> None:
        self._events = _Events(label, "text_completion", with_usage=with_usage)
        self._openings: dict[int, bytes] = {}
        self._offsets: defaultdict[int, int] = defaultdict(int)

    def of(self, piece: pb.GenerateResponse) -> bytes:
        kind = piece.WhichOneof("event")
        if kind == "text" and not piece.logprobs:
            opening = self._openings.get(piece.choice)
            if opening is None:
                opening = self._openings[piece.choice] = self._events.opening(piece.choice, '"text": ')
            return opening + _encode(piece.text).encode() + self._CLOSING
        found = b""
        if piece.logprobs or kind == "text":
            offset = self._offsets[piece.choice]
            self._offsets[piece.choice] += length_of(piece.logprobs)
            logprobs = legacy_logprobs(piece.logprobs, offset)
            shape = {"index": piece.choice, "text": piece.text, "logprobs": logprobs, "finish_reason": None}
            found = self._events.event(shape)
        if kind == "completion":
            found += self._events.last({"index": piece.choice, "text": ""}, piece.completion)
        return found

    def end(self, outcome: Outcome) -> bytes:
        return self._events.end(outcome)


def tool_call(call: pb.ToolCall) -> dict[str, object]:
    """A call in OpenAI's words."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
