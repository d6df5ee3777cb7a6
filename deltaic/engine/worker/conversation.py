"""Messages and tools of a request, checked and in the shape that chat templates know."""

import json
import re
from collections.abc import Sequence
from typing import Any

from deltaic.engine.errors import BadRequest, SchemaInvalid
from deltaic.engine.worker.grammar import check_schema
from deltaic.engine.worker.tools import Tool
from deltaic.v1 import inference_pb2

MAX_MESSAGES = 4096
MAX_TOOLS = 128
MAX_CALLS = 128
MAX_TOOL_CHARACTERS = 128 << 10
"""Of all schemas and descriptions together."""

_ROLES = ("system", "user", "assistant", "tool")
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def to_turns(messages: Sequence[inference_pb2.ChatMessage]) -> list[dict[str, Any]]:
    """Turns as OpenAI has them, the arguments of calls as dicts. Raises BadRequest."""
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(f"{len(messages)} messages", hint=f"send at most {MAX_MESSAGES}", field="messages")
    return [_turn(message) for message in messages]


def _turn(message: inference_pb2.ChatMessage) -> dict[str, Any]:
    if message.role not in _ROLES:
        roles = f"{', '.join(_ROLES[:-1])} or {_ROLES[-1]}"
        raise BadRequest(f"no such role: {message.role[:40]!r}", hint=f"use {roles}", field="role")
    if message.tool_calls and message.role != "assistant":
        raise BadRequest("only the assistant calls tools", hint="use the role assistant", field="tool_calls")
    if message.tool_call_id and message.role != "tool":
        raise BadRequest("only a tool answers calls", hint="use the role tool", field="tool_call_id")
    if len(message.tool_calls) > MAX_CALLS:
        raise BadRequest(f"{len(message.tool_calls)} calls in one turn", hint=f"send at most {MAX_CALLS}")
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    if message.tool_call_id:
        turn["tool_call_id"] = message.tool_call_id
    if message.name:
        turn["name"] = message.name
    return turn


def _call(call: inference_pb2.ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest("the arguments of a call are no JSON object", hint="send them as JSON", field="arguments")
    return {"id": call.id, "type": "function", "function": {"name": _name(call.name), "arguments": arguments}}


def to_tools(tools: Sequence[inference_pb2.Tool]) -> tuple[Tool, ...]:
    """Raises BadRequest, SchemaInvalid."""
    if len(tools) > MAX_TOOLS:
        raise BadRequest(f"{len(tools)} tools", hint=f"send at most {MAX_TOOLS}", field="tools")
    size = sum(len(tool.parameters) + len(tool.description) for tool in tools)
    if size > MAX_TOOL_CHARACTERS:
        raise BadRequest(f"the tools have {size} characters", hint=f"send at most {MAX_TOOL_CHARACTERS}", field="tools")
    if len({tool.name for tool in tools}) < len(tools):
        raise BadRequest("two tools have the same name", hint="give each its own", field="tools")
    return tuple(Tool(_name(tool.name), tool.description, _parameters(tool)) for tool in tools)


def _name(name: str) -> str:
    if not _TOOL_NAME.fullmatch(name):
        raise BadRequest(
            f"no name for a tool: {name[:80]!r}", hint='use 1 to 64 of a-z, A-Z, 0-9, "_" and "-"', field="tools"
        )
    return name


def _parameters(tool: inference_pb2.Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, always one of an object."""
    if not tool.parameters:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    try:
        schema: dict[str, Any] = json.loads(check_schema(tool.parameters))
    except SchemaInvalid as error:
        raise SchemaInvalid(f"tool {tool.name}: {error.message}", hint=error.hint, field="tools") from None
    if schema.setdefault("type", "object") != "object":
        raise SchemaInvalid(
            f"tool {tool.name}: its arguments are no object", hint='use "type": "object"', field="tools"
        )
    return schema
