"""Chat templates: the Jinja text that a model carries turns a conversation into the prompt that it was trained on.

Rendered as transformers does it, in an immutable sandbox, with a bound on time and on the size of the result. The text
comes from the model file, so it is trusted to be published, not to be kind.
"""

import datetime as dt
import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from types import FrameType
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from deltaic.engine.errors import TemplateFailed
from deltaic.engine.worker.tools import Tool, plain_turns

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What a model without a template of its own gets."""

MAX_PROMPT_CHARACTERS = 8 << 20
MAX_RENDER_SECONDS = 5.0


class ChatTemplate:
    """The template of one model. `render` may run on any thread."""

    def __init__(self, text: str | None, *, bos: str = "", eos: str = "") -> None:
        """`text` None means ChatML. A text that does not compile makes every `render` fail, nothing else."""
        self._special = {"bos_token": bos, "eos_token": eos}
        self.knows_tools = text is not None and re.search(r"\btools\b", text) is not None
        environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _refuse
        environment.globals["strftime_now"] = _strftime_now
        self._broken = ""
        try:
            self._template = environment.from_string(CHATML if text is None else text)
        except (TemplateError, RecursionError) as error:
            self._broken = str(error) or type(error).__name__

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[Tool] = ()) -> str:
        """The prompt, ending where the assistant's turn begins. Raises TemplateFailed.

        Messages are as OpenAI has them, the arguments of calls as dicts. A template that knows no tools gets them in
        words.
        """
        if not self.knows_tools:
            return self._render(plain_turns(messages, tools), None)
        if any("tool_calls" in message for message in messages) and self._wants_text_arguments:
            messages = [_with_text_arguments(message) for message in messages]
        return self._render(messages, [tool.shown() for tool in tools] or None)

    @cached_property
    def _wants_text_arguments(self) -> bool:
        """Whether the template writes the arguments of calls as they are, instead of making JSON of them."""
        call = {"id": "probe0000", "type": "function", "function": {"name": "probe", "arguments": {"probing": "yes"}}}
        turns: list[dict[str, Any]] = [{"role": "user", "content": "?"}]
        turns.append({"role": "assistant", "content": "", "tool_calls": [call]})
        try:
            text = self._render(turns, None)
        except TemplateFailed:
            return True
        return not re.search(r'"probing"\s*:\s*"yes"', text)

    def _render(self, messages: Sequence[dict[str, Any]], tools: list[dict[str, Any]] | None) -> str:
        if self._broken:
            raise _failed(self._broken)
        values = {"messages": list(messages), "tools": tools, "add_generation_prompt": True, **self._special}
        parts, size = [], 0
        try:
            with _time_limit(MAX_RENDER_SECONDS):
                for part in self._template.generate(values):
                    size += len(part)
                    if size > MAX_PROMPT_CHARACTERS:
                        raise _failed(f"it makes more than {MAX_PROMPT_CHARACTERS} characters")
                    parts.append(part)
        except TemplateFailed:
            raise
        except Exception as error:  # noqa: BLE001  # a template can raise whatever Python can
            raise _failed(str(error) or type(error).__name__) from None
        return "".join(parts)


def _with_text_arguments(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else message


class _Sandbox(ImmutableSandboxedEnvironment):
    """Refuses multiplication and powers that would make a value out of proportion."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = next((each for each in (left, right) if isinstance(each, (str, list, tuple))), None)
        times = right if sized is left else left
        if sized is not None and isinstance(times, int) and len(sized) * times > MAX_PROMPT_CHARACTERS:
            raise _failed("it repeats a text too often")
        if operator == "**" and isinstance(right, int) and abs(right) > 64:
            raise _failed("it raises a number to a power above 64")
        return super().call_binop(context, operator, left, right)


def _failed(why: str) -> TemplateFailed:
    # The reason may quote the conversation only where the template's author put it in; it goes to the caller alone.
    return TemplateFailed(
        f"the chat template of the model cannot be applied: {why[:300]}",
        hint="check the roles and their order, or send `prompt` instead of `messages`",
    )


def _refuse(message: str) -> NoReturn:
    raise _failed(message)


def _strftime_now(form: str) -> str:
    return dt.datetime.now().astimezone().strftime(form)


def _tojson(value: Any, indent: int | None = None, **_: Any) -> str:
    """JSON without the HTML escapes of Jinja's own filter, as the templates expect."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TemplateFailed in the template's own lines once `seconds` have passed, on this thread only.

    A loop without output cannot be stopped from outside; a trace function sees every line that it runs.
    """
    ends = time.monotonic() + seconds

    def each_line(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG001
        if time.monotonic() > ends:
            raise _failed(f"it runs longer than {seconds:g} seconds")
        return each_line

    def each_call(frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG001
        return each_line if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(each_call)
    try:
        yield
    finally:
        sys.settrace(before)
