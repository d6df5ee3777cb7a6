"""Bodies to requests of the contract."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from deltaic.gateway.bodies import (
    Adapter,
    Asking,
    CalledTool,
    ChatBody,
    CompletionBody,
    EmbeddingsBody,
    Message,
    NamedTool,
    Part,
    Sampled,
    Tool,
)
from deltaic.gateway.caller import sensitivity_of, tenant_of
from deltaic.gateway.errors import BadBody, ContentNotText
from deltaic.gateway.model_names import resolve
from deltaic.v1 import inference_pb2 as pb

_PRIORITIES = {"low": pb.PRIORITY_LOW, "normal": pb.PRIORITY_NORMAL, "high": pb.PRIORITY_HIGH}
_MODES = {"none": pb.ToolChoice.MODE_NONE, "auto": pb.ToolChoice.MODE_AUTO, "required": pb.ToolChoice.MODE_REQUIRED}
_COPIED = (
    *("temperature", "top_k", "top_p", "min_p", "repeat_penalty"),
    *("frequency_penalty", "presence_penalty"),
)


def chat_request(body: ChatBody, headers: Mapping[str, str]) -> pb.GenerateRequest:
    """Raises BadName, BadBody, ContentNotText."""
    request = _request(body, headers)
    request.max_tokens = body.max_completion_tokens or body.max_tokens or 0
    request.messages.extend(_message(message, index) for index, message in enumerate(body.messages))
    request.tools.extend(_tool(tool) for tool in body.tools or ())
    if body.tool_choice is not None:
        request.tool_choice.CopyFrom(_tool_choice(body))
    if body.logprobs:
        request.top_logprobs = body.top_logprobs or 0
    elif body.top_logprobs:
        raise BadBody("top_logprobs without logprobs", hint="set logprobs to true", param="top_logprobs")
    _constrain(request, body)
    return request


def completion_requests(body: CompletionBody, headers: Mapping[str, str]) -> list[pb.GenerateRequest]:
    """One for each prompt. Raises BadName, BadBody."""
    if body.best_of not in (None, body.n or 1):
        raise BadBody("best_of is not n", hint="ask for all answers with n and choose yourself", param="best_of")
    requests = []
    for prompt in [body.prompt] if isinstance(body.prompt, str) else body.prompt:
        request = _request(body, headers)
        request.prompt = prompt
        request.max_tokens = body.max_tokens or 0
        if body.logprobs is not None:
            request.top_logprobs = body.logprobs
        if body.grammar is not None:
            request.constraint.grammar = body.grammar
        requests.append(request)
    return requests


def embed_requests(body: EmbeddingsBody, headers: Mapping[str, str], most: int) -> list[pb.EmbedRequest]:
    """Of at most `most` inputs each, in their order, so that no answer outgrows a message. Raises BadName, BadBody."""
    inputs = [body.input] if isinstance(body.input, str) else body.input
    common = _common(body, headers)
    return [pb.EmbedRequest(inputs=inputs[at : at + most], **common) for at in range(0, len(inputs), most)]


def _common(body: Asking, headers: Mapping[str, str]) -> dict[str, Any]:
    return {
        "model": resolve(body.model),
        "tenant": tenant_of(headers),
        "sensitivity": sensitivity_of(headers, body.sensitivity),
        "priority": _PRIORITIES.get(body.priority or "", pb.PRIORITY_UNSPECIFIED),
    }


def _request(body: Sampled, headers: Mapping[str, str]) -> pb.GenerateRequest:
    """All but the prompt and its limits."""
    request = pb.GenerateRequest(**_common(body, headers), choices=body.n or 0)
    for name in _COPIED:
        if (value := getattr(body, name)) is not None:
            setattr(request.sampling, name, value)
    if body.seed is not None:
        request.sampling.seed = body.seed & 0xFFFFFFFF
    for token, bias in (body.logit_bias or {}).items():
        request.sampling.logit_bias[int(token)] = bias
    request.stop.extend([body.stop] if isinstance(body.stop, str) else body.stop or ())
    for adapter in body.adapters or ():
        use = adapter if isinstance(adapter, Adapter) else Adapter(name=adapter)
        request.adapters.add(name=use.name, scale=use.scale)
    return request


def _message(message: Message, index: int) -> pb.ChatMessage:
    where = f"messages[{index}]"
    if message.content is None and not (message.role == "assistant" and message.tool_calls):
        raise BadBody(f"{where} has no content", param=f"{where}.content")
    if message.role == "tool" and not message.tool_call_id:
        raise BadBody(f"{where} does not say which call it answers", param=f"{where}.tool_call_id")
    if message.tool_calls and message.role != "assistant":
        raise BadBody(f"{where} calls tools and is not the assistant's", param=f"{where}.tool_calls")
    return pb.ChatMessage(
        role="system" if message.role == "developer" else message.role,
        content=_text(message.content, where),
        tool_calls=[_called(call) for call in message.tool_calls or ()],
        tool_call_id=message.tool_call_id or "",
        name=message.name or "",
    )


def _text(content: str | Sequence[Part] | None, where: str) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(_part(part, f"{where}.content[{index}]") for index, part in enumerate(content))


def _part(part: Part, where: str) -> str:
    text = part.text if part.type == "text" else part.refusal if part.type == "refusal" else None
    if text is not None:
        return text
    if part.type in ("text", "refusal"):
        raise BadBody(f"{where} has no {part.type}", param=f"{where}.{part.type}")
    raise ContentNotText(
        f"{where} is of the type {part.type[:40]!r}, and models here read text only",
        hint="send parts of the type text",
        param=where,
    )


def _called(call: CalledTool) -> pb.ToolCall:
    return pb.ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)


def _tool(tool: Tool) -> pb.Tool:
    function = tool.function
    parameters = "" if function.parameters is None else json.dumps(function.parameters)
    return pb.Tool(name=function.name, description=function.description or "", parameters=parameters)


def _tool_choice(body: ChatBody) -> pb.ToolChoice:
    choice = body.tool_choice
    if not body.tools and choice not in (None, "none", "auto"):
        raise BadBody("a tool must be called and there is none", hint="send tools", param="tool_choice")
    if isinstance(choice, NamedTool):
        if all(tool.function.name != choice.function.name for tool in body.tools or ()):
            raise BadBody("tool_choice names a tool that is not among tools", param="tool_choice")
        return pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED, name=choice.function.name)
    return pb.ToolChoice(mode=_MODES[choice or "auto"])


def _constrain(request: pb.GenerateRequest, body: ChatBody) -> None:
    shape = body.response_format
    if shape is not None and shape.type != "text":
        if body.grammar is not None:
            raise BadBody("both grammar and response_format limit the answer", hint="send one", param="grammar")
        if shape.type == "json_object":
            request.constraint.json_object = True
        elif shape.json_schema is None:
            raise BadBody("response_format has no json_schema", param="response_format.json_schema")
        else:
            request.constraint.json_schema = json.dumps(shape.json_schema.schema_)
    elif body.grammar is not None:
        request.constraint.grammar = body.grammar
