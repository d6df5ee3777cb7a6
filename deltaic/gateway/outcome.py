"""What an answer came to: how its choices ended, what it used, where it was made."""

from dataclasses import dataclass, field

from deltaic.gateway.errors import AnswerCut
from deltaic.v1 import inference_pb2 as pb

FINISH_REASONS = {
    pb.Completion.FINISH_REASON_STOP: "stop",
    pb.Completion.FINISH_REASON_LENGTH: "length",
    pb.Completion.FINISH_REASON_TOOL_CALLS: "tool_calls",
}

_FINGERPRINT_DIGITS = 12


@dataclass(slots=True)
class Outcome:
    """Of all choices together. Choices of one prompt share it, so its tokens count once."""

    expected: int
    choices_each: int
    ended: int = 0
    last: pb.Completion = field(default_factory=pb.Completion)
    _prompts: dict[int, tuple[int, int]] = field(default_factory=dict)
    _completion_tokens: int = 0

    def add(self, choice: int, completion: pb.Completion) -> None:
        self.ended += 1
        self.last = completion
        used = completion.usage
        prompt, cached = self._prompts.get(choice // self.choices_each, (0, used.cached_tokens))
        # The second choice finds the prompt that the first one has read: that is not what was cached before.
        self._prompts[choice // self.choices_each] = (
            max(prompt, used.prompt_tokens),
            min(cached, used.cached_tokens),
        )
        self._completion_tokens += used.completion_tokens

    def check(self) -> None:
        """Raises AnswerCut when a choice has not ended."""
        if self.ended < self.expected:
            raise AnswerCut(
                f"{self.ended} of {self.expected} answers ended, and no more came", hint="send the request again"
            )

    def usage(self) -> dict[str, object]:
        prompt_tokens = sum(prompt for prompt, _ in self._prompts.values())
        cached = sum(cached for _, cached in self._prompts.values())
        return {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "total_tokens": prompt_tokens + self._completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def origin(made: pb.Completion | pb.EmbedResponse) -> dict[str, object]:
    """Where an answer was made and from which revision: the object `deltaic` of a body."""
    facts: dict[str, object] = {"revision": made.revision, "node": made.node, "answered_by": _role(made)}
    if isinstance(made, pb.Completion):
        times = made.timings
        facts["timings"] = {
            "queue_ms": round(times.queue_ms, 3),
            "first_token_ms": round(times.first_token_ms, 3),
            "decode_ms": round(times.decode_ms, 3),
        }
        if made.from_cache:
            facts["from_cache"] = True
    return facts


def origin_headers(made: pb.Completion | pb.EmbedResponse) -> dict[str, str]:
    """The same as headers."""
    headers = {
        "x-deltaic-revision": made.revision,
        "x-deltaic-node": made.node,
        "x-deltaic-answered-by": _role(made),
    }
    if isinstance(made, pb.Completion) and made.from_cache:
        headers["x-deltaic-from-cache"] = "true"
    return headers


def fingerprint(revision: str) -> str | None:
    """The start of a revision's digest."""
    return revision.rpartition("sha256:")[2][:_FINGERPRINT_DIGITS] or None


def _role(made: pb.Completion | pb.EmbedResponse) -> str:
    return pb.NodeRole.Name(made.answered_by).removeprefix("NODE_ROLE_").lower()
