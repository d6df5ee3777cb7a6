"""Requests checked and turned into jobs: everything that a caller can get wrong is found here."""

from collections.abc import Sequence

from deltaic.engine.errors import BadRequest, PromptTooLong
from deltaic.engine.worker.executor import Loaded
from deltaic.engine.worker.job import Job
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.sampling import SamplingParameters
from deltaic.v1 import inference_pb2

DEFAULT_MAX_TOKENS = 256
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_MESSAGES = 4096
_ROLES = frozenset({"system", "user", "assistant"})


def to_job(request: inference_pb2.GenerateRequest, loaded: Loaded, deadline: float) -> Job:
    """Tokenise and check. May take milliseconds for a long prompt: keep it off the event loop.

    Raises BadRequest, TemplateFailed, PromptTooLong.
    """
    sampling = SamplingParameters.from_proto(request.sampling, loaded.model.vocabulary_size)
    stops = _stops(request.stop)
    prompt = prompt_tokens(request, loaded.model)
    room = loaded.context_tokens - len(prompt)
    if room < 1:
        raise PromptTooLong(
            f"the prompt has {len(prompt)} tokens, the context holds {loaded.context_tokens}",
            hint=f"send at most {loaded.context_tokens - 1} tokens, or raise engine.context_tokens on the node",
            prompt_tokens=str(len(prompt)),
            context_tokens=str(loaded.context_tokens),
        )
    return Job(prompt, min(request.max_tokens or DEFAULT_MAX_TOKENS, room), sampling, stops, deadline)


def prompt_tokens(
    request: inference_pb2.GenerateRequest | inference_pb2.CountTokensRequest, model: Model
) -> tuple[int, ...]:
    """The tokens of `prompt`, or of `messages` after the chat template. Raises BadRequest, TemplateFailed."""
    if request.messages and request.prompt:
        raise BadRequest("both messages and prompt are given", hint="send one of them")
    text = model.template.render(_conversation(request.messages)) if request.messages else request.prompt
    tokens = model.tokenize(text) if text else ()
    if not tokens:
        raise BadRequest("there is no prompt", hint="send messages, or a prompt that is not empty")
    return tokens


def _conversation(messages: Sequence[inference_pb2.ChatMessage]) -> list[dict[str, str]]:
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"{len(messages)} messages", hint=f"send at most {MAX_MESSAGES}")
    for message in messages:
        if message.role not in _ROLES:
            raise BadRequest(f"no such role: {message.role[:40]!r}", hint="use system, user or assistant", field="role")
    return [{"role": message.role, "content": message.content} for message in messages]


def _stops(stops: Sequence[str]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise BadRequest(f"{len(stops)} stop texts", hint=f"send at most {MAX_STOPS}", field="stop")
    if any(not stop or len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise BadRequest("a stop text is empty or too long", hint=f"use 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(stops)
