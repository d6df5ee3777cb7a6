"""Tools in a conversation: how a model is told of them, how it writes calls, and the grammar that forces one."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from deltaic.engine.worker.grammar import JSON_OPTIONS

MAX_FORCED_CALLS = 8


class ToolFormat(Enum):
    """The notation of calls of one family of models."""

    HERMES = "hermes"
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`: Hermes, Qwen, and models that know no tools."""
    LLAMA = "llama"
    """`{"name": ..., "parameters": {...}}` as the whole answer: Llama 3."""
    MISTRAL = "mistral"
    """`[TOOL_CALLS][{"name": ..., "arguments": {...}}]`."""

    @classmethod
    def of_template(cls, text: str | None) -> "ToolFormat":
        """What a chat template shows of it; Hermes where it shows nothing."""
        text = text or ""
        if "[TOOL_CALLS]" in text:
            return cls.MISTRAL
        if "<tool_call>" not in text and "tools" in text and '"parameters":' in text:
            return cls.LLAMA
        return cls.HERMES

    @property
    def opening(self) -> str:
        return {"hermes": "<tool_call>", "llama": "", "mistral": "[TOOL_CALLS]"}[self.value]

    @property
    def closing(self) -> str:
        return "</tool_call>" if self is ToolFormat.HERMES else ""


MARKERS = ("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>")
"""Special tokens that are part of the text of a call, although control tokens of a model are not text."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that a caller offers; `parameters` is a JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]

    def shown(self) -> dict[str, Any]:
        """As chat templates expect it."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def instructions(tools: Sequence[Tool]) -> str:
    """What a model is told whose chat template knows no tools."""
    shown = "\n".join(json.dumps(tool.shown(), ensure_ascii=False) for tool in tools)
    return (
        "You may call functions to help with the user's request. The functions, as JSON:\n"
        f"<tools>\n{shown}\n</tools>\n"
        "To call one, answer with its name and arguments as JSON between these tags, and nothing else:\n"
        '<tool_call>\n{"name": "NAME", "arguments": {ARGUMENTS}}\n</tool_call>'
    )


def plain_turns(messages: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The conversation in words, for a chat template that knows no tools: instructions, calls and their results."""
    turns = [_plain_turn(message) for message in messages]
    if not tools:
        return turns
    if turns and turns[0]["role"] == "system":
        return [{**turns[0], "content": f"{turns[0]['content']}\n\n{instructions(tools)}"}, *turns[1:]]
    return [{"role": "system", "content": instructions(tools)}, *turns]


def _plain_turn(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    calls = [
        f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
        for call in message.get("tool_calls", ())
    ]
    return {"role": message["role"], "content": "\n".join(filter(None, [message["content"], *calls]))}


def forced_calls(tools: Sequence[Tool], form: ToolFormat, special: Callable[[str], int | None], *, most: int) -> str:
    """A grammar of 1 to `most` calls of these tools, their arguments as their schemas say, for llguidance.

    `special` gives the token of a marker where the model has one.
    """
    names = [f"tool{index}" for index in range(len(tools))]
    rules = [f"{name}: {_call(tool, form)}" for name, tool in zip(names, tools, strict=True)]
    one = " | ".join(names)
    match form:
        case ToolFormat.HERMES:
            opening, closing = (_marker(text, special) for text in (form.opening, form.closing))
            start = "call" + _more('"\\n" call', most - 1)
            rules.append(f'call: {opening} "\\n" one "\\n" {closing}')
        case ToolFormat.MISTRAL:
            more = _more('", " one', most - 1)
            start = f'{_marker(form.opening, special)} "[" one{more} "]"'
        case ToolFormat.LLAMA:
            start = "one"
    return "\n".join([f"start: {start}", f"one: {one}", *rules]) + "\n"


def _call(tool: Tool, form: ToolFormat) -> str:
    key = "parameters" if form is ToolFormat.LLAMA else "arguments"
    head = json.dumps(f'{{"name": "{tool.name}", "{key}": ')
    schema = {**tool.parameters, "x-guidance": JSON_OPTIONS}
    return f'{head} %json {json.dumps(schema)} "}}"'


def _more(item: str, most: int) -> str:
    return f" ({item}){{0,{most}}}" if most else ""


def _marker(text: str, special: Callable[[str], int | None]) -> str:
    token = special(text)
    return json.dumps(text) if token is None else f"<[{token}]>"
