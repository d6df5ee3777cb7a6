"""Requests checked and turned into jobs: everything that a caller can get wrong is found here."""

import math
from collections.abc import Sequence

from deltaic.engine.errors import BadRequest, GrammarInvalid, PromptTooLong, SchemaInvalid
from deltaic.engine.worker.conversation import to_tools, to_turns
from deltaic.engine.worker.executor import Loaded
from deltaic.engine.worker.grammar import Grammar
from deltaic.engine.worker.job import PRIORITY_NORMAL, Job
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.sampling import SamplingParameters
from deltaic.engine.worker.tools import MAX_FORCED_CALLS, Tool, forced_calls
from deltaic.v1 import inference_pb2

DEFAULT_MAX_TOKENS = 256
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20
MAX_ADAPTERS = 8
MAX_ADAPTER_SCALE = 100.0
MAX_NAME_CHARACTERS = 256
MAX_INPUTS = 2048

_Mode = inference_pb2.ToolChoice.Mode


def to_job(request: inference_pb2.GenerateRequest, loaded: Loaded, deadline: float) -> Job:
    """Tokenise and check. May take milliseconds for a long prompt or grammar: keep it off the event loop.

    Raises BadRequest, GrammarInvalid, SchemaInvalid, TemplateFailed, PromptTooLong.
    """
    model = loaded.model
    sampling = SamplingParameters.from_proto(request.sampling, model.vocabulary_size)
    stops = _stops(request.stop)
    if len(request.tenant) > MAX_NAME_CHARACTERS:
        raise BadRequest("the name of the tenant is too long", hint=f"use at most {MAX_NAME_CHARACTERS} characters")
    if request.priority not in inference_pb2.Priority.values():
        raise BadRequest(f"no such priority: {request.priority}", hint="use 1, 2 or 3", field="priority")
    _at_most("choices", request.choices, MAX_CHOICES)
    _at_most("top_logprobs", request.top_logprobs, MAX_TOP_LOGPROBS)
    tools = to_tools(request.tools)
    grammar = _constraint(request, model)
    called = _calls_wanted(request, tools)
    if called:
        grammar = _forced(called, model, one=bool(request.tool_choice.name))
    prompt = prompt_tokens(request, model, loaded.context_tokens)
    room = loaded.context_tokens - len(prompt)
    if room < 1:
        raise _too_long(f"the prompt has {len(prompt)} tokens", loaded.context_tokens, len(prompt))
    return Job(
        prompt,
        min(request.max_tokens or DEFAULT_MAX_TOKENS, room),
        sampling,
        stops,
        deadline,
        tenant=request.tenant,
        priority=request.priority or PRIORITY_NORMAL,
        adapters=_adapters(request.adapters),
        choices=request.choices or 1,
        grammar=grammar,
        top_logprobs=request.top_logprobs if request.HasField("top_logprobs") else None,
        tools=model.tool_format if called or _may_call(request) else None,
    )


def prompt_tokens(
    request: inference_pb2.GenerateRequest | inference_pb2.CountTokensRequest,
    model: Model,
    context_tokens: int | None = None,
) -> tuple[int, ...]:
    """The tokens of `prompt`, or of `messages` after the chat template. Raises BadRequest, TemplateFailed.

    With `context_tokens`, a prompt that is too long for certain is refused before it is tokenised: PromptTooLong.
    """
    if request.messages and request.prompt:
        raise BadRequest("both messages and prompt are given", hint="send one of them")
    if request.tools and not request.messages:
        raise BadRequest("tools need a conversation", hint="send messages instead of a prompt", field="tools")
    tools = to_tools(request.tools)
    text = model.template.render(to_turns(request.messages), tools) if request.messages else request.prompt
    tokens = _tokenize(text, model, context_tokens)
    if not tokens:
        raise BadRequest("there is no prompt", hint="send messages, or a prompt that is not empty")
    return tokens


def embed_inputs(request: inference_pb2.EmbedRequest, model: Model, context_tokens: int) -> tuple[tuple[int, ...], ...]:
    """The tokens of every input. Raises BadRequest, PromptTooLong."""
    if not request.inputs:
        raise BadRequest("there is no input", hint="send at least one text", field="inputs")
    _at_most("inputs", len(request.inputs), MAX_INPUTS)
    return tuple(_input(index, text, model, context_tokens) for index, text in enumerate(request.inputs))


def _input(index: int, text: str, model: Model, context_tokens: int) -> tuple[int, ...]:
    tokens = _tokenize(text, model, context_tokens)
    if not tokens:
        raise BadRequest(f"input {index} is empty", hint="send texts that are not empty", field="inputs")
    if len(tokens) > context_tokens:
        raise _too_long(f"input {index} has {len(tokens)} tokens", context_tokens, len(tokens))
    return tokens


def _tokenize(text: str, model: Model, context_tokens: int | None) -> tuple[int, ...]:
    """Nothing for no text: a BOS alone is no prompt. Raises PromptTooLong where the bytes alone tell."""
    size = len(text.encode("utf-8", "replace"))
    if context_tokens is not None and size > context_tokens * 4:
        least = -(-size // model.longest_piece)
        if least > context_tokens:
            raise _too_long(f"the text has {size} bytes, which are at least {least} tokens", context_tokens, least)
    return model.tokenize(text) if text else ()


def _too_long(what: str, context_tokens: int, tokens: int) -> PromptTooLong:
    return PromptTooLong(
        f"{what}, the context holds {context_tokens}",
        hint=f"send at most {context_tokens - 1} tokens, or raise engine.context_tokens on the node",
        prompt_tokens=str(tokens),
        context_tokens=str(context_tokens),
    )


def _stops(stops: Sequence[str]) -> tuple[str, ...]:
    if len(stops) > MAX_STOPS:
        raise BadRequest(f"{len(stops)} stop texts", hint=f"send at most {MAX_STOPS}", field="stop")
    if any(not stop or len(stop) > MAX_STOP_CHARACTERS for stop in stops):
        raise BadRequest("a stop text is empty or too long", hint=f"use 1 to {MAX_STOP_CHARACTERS} characters")
    return tuple(stops)


def _constraint(request: inference_pb2.GenerateRequest, model: Model) -> Grammar | None:
    constraint = request.constraint
    match constraint.WhichOneof("language"):
        case "json_schema":
            return model.grammars.from_json_schema(constraint.json_schema)
        case "grammar":
            return model.grammars.from_gbnf(constraint.grammar)
        case "json_object" if constraint.json_object:
            return model.grammars.json_object()
    return None


def _calls_wanted(request: inference_pb2.GenerateRequest, tools: Sequence[Tool]) -> Sequence[Tool]:
    """The tools of which one must be called; nothing where the model decides."""
    choice = request.tool_choice
    if choice.mode not in _Mode.values():
        raise BadRequest(f"no such mode of tool_choice: {choice.mode}", hint="use 1, 2 or 3", field="tool_choice")
    if choice.mode != _Mode.MODE_REQUIRED:
        return ()
    if request.constraint.WhichOneof("language"):
        raise BadRequest(
            "a call of a tool is required, and another constraint is given", hint="send one of them", field="constraint"
        )
    called = [tool for tool in tools if choice.name in ("", tool.name)]
    if not called:
        raise BadRequest(
            f"no such tool: {choice.name!r}" if choice.name else "a call is required, and there are no tools",
            hint="name one of the tools of the request",
            field="tool_choice",
        )
    return called


def _forced(called: Sequence[Tool], model: Model, *, one: bool) -> Grammar:
    """Calls of these tools and nothing else; `one` for a single call. Raises SchemaInvalid."""
    most = 1 if one else MAX_FORCED_CALLS
    try:
        return model.grammars.from_lark(forced_calls(called, model.tool_format, model.special_token, most=most))
    except GrammarInvalid as error:
        raise SchemaInvalid(f"the schemas of the tools: {error.message}", hint=error.hint, field="tools") from None


def _may_call(request: inference_pb2.GenerateRequest) -> bool:
    """Whether calls are looked for in the answer: not in one that a constraint already describes."""
    constrained = request.constraint.WhichOneof("language") is not None
    return bool(request.tools) and request.tool_choice.mode != _Mode.MODE_NONE and not constrained


def _adapters(uses: Sequence[inference_pb2.AdapterUse]) -> tuple[tuple[str, float], ...]:
    _at_most("adapters", len(uses), MAX_ADAPTERS)
    adapters = {use.name: use.scale if use.HasField("scale") else 1.0 for use in uses}
    if len(adapters) < len(uses) or any(not 0 < len(name) <= MAX_NAME_CHARACTERS for name in adapters):
        raise BadRequest("an adapter has no name, or is named twice", hint="name each adapter once", field="adapters")
    if any(not math.isfinite(scale) or abs(scale) > MAX_ADAPTER_SCALE for scale in adapters.values()):
        raise BadRequest(
            "the scale of an adapter is out of range",
            hint=f"use -{MAX_ADAPTER_SCALE:g} to {MAX_ADAPTER_SCALE:g}",
            field="adapters",
        )
    return tuple(adapters.items())


def _at_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise BadRequest(f"{name}: {value} asked for", hint=f"ask for at most {most}", field=name)
