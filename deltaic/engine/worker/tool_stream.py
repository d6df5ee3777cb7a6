"""From the text of an answer to the calls of tools in it. Pieces may be cut anywhere; what is no whole call is text."""

import json
import secrets
from typing import Any

from deltaic.engine.worker.text import overlap
from deltaic.engine.worker.tools import ToolFormat
from deltaic.v1 import inference_pb2

Found = str | inference_pb2.ToolCall

_PYTHON_TAG = "<|python_tag|>"
_MAX_NAME = 64


class ToolStream:
    """The calls of one answer. Text is held back only while it may still become a call; linear in its length."""

    def __init__(self, form: ToolFormat) -> None:
        self._form = form
        self._held = ""
        self._inside = form is ToolFormat.LLAMA
        self._plain = self._called = False
        self._value = _Value()
        self._identifier = secrets.token_hex(4)[:7]
        self.calls = 0

    def push(self, text: str) -> list[Found]:
        """What this piece completes, in order: text that is none of a call, and calls."""
        self._held += text
        found: list[Found] = []
        while self._advance(found, final=False):
            continue
        return _joined(found)

    def finish(self) -> list[Found]:
        """What was held back, at the end of the answer."""
        found: list[Found] = []
        while self._advance(found, final=True):
            continue
        if not self.calls or not self._held.isspace():
            found.append(self._held)
        self._held = ""
        return _joined(found)

    def _advance(self, found: list[Found], *, final: bool) -> bool:
        """One step; False when more text is needed."""
        if self._plain:
            found.append(self._held)
            self._held = ""
            return False
        return self._read_call(found, final=final) if self._inside else self._read_text(found)

    def _read_text(self, found: list[Found]) -> bool:
        """Text up to the next opening, which is kept as the beginning of what is held."""
        opening = self._form.opening
        if self._called:
            # White space between calls, and after them, is no answer.
            self._held = self._held.lstrip()
            self._called = not self._held
        at = self._held.find(opening)
        if at < 0:
            keep = overlap(self._held, opening)
            found.append(self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
            return False
        found.append(self._held[:at])
        self._held, self._inside = self._held[at:], True
        self._value = _Value(len(opening))
        return True

    def _read_call(self, found: list[Found], *, final: bool) -> bool:
        """The JSON after the opening, then the closing. What turns out to be something else goes on as text."""
        if self._form is ToolFormat.LLAMA and not self._skip_python_tag(final=final):
            return False
        end = self._value.scan(self._held)
        if end is None:
            return False
        after = self._after(end, final=final) if end else 0
        if after is None:
            return False
        calls = _calls(self._held[self._value.start : end]) if after else []
        if not calls:
            self._give_up(found, end or self._value.at - 1)
            return True
        found += [self._call(name, arguments) for name, arguments in calls]
        self._held, self._called = self._held[after:], True
        self._inside, self._value = self._form is ToolFormat.LLAMA, _Value()
        return bool(self._held)

    def _skip_python_tag(self, *, final: bool) -> bool:
        """False while what is held may still become the tag that Llama writes before a call."""
        if self._value.at or not self._held.startswith(_PYTHON_TAG[: len(self._held)]):
            return True
        if len(self._held) < len(_PYTHON_TAG):
            return final
        self._value = _Value(len(_PYTHON_TAG))
        return True

    def _after(self, end: int, *, final: bool) -> int | None:
        """Where text goes on after a call whose JSON ends at `end`; 0 when its closing is missing, None: not yet known.

        An answer may end without the closing: the model's end of turn can stand for it.
        """
        if self._form is ToolFormat.MISTRAL:
            return end
        if self._form is ToolFormat.LLAMA:
            return None if len(self._held) == end and not final else end + (self._held[end : end + 1] == ";")
        closing = self._form.closing
        rest = self._held[end:]
        tail = rest.lstrip()
        if tail.startswith(closing):
            return end + len(rest) - len(tail) + len(closing)
        if closing.startswith(tail):
            return end if final else None
        return 0

    def _give_up(self, found: list[Found], end: int) -> None:
        """What was read up to `end` is text. In the Llama form, all the rest of the answer is."""
        self._plain = self._form is ToolFormat.LLAMA
        self._inside = False
        found.append(self._held[:end])
        self._held = self._held[end:]

    def _call(self, name: str, arguments: dict[str, Any]) -> inference_pb2.ToolCall:
        """Identifiers have nine letters and digits: Mistral's templates refuse others."""
        identifier = f"{self._identifier}{self.calls:02d}"
        self.calls += 1
        return inference_pb2.ToolCall(id=identifier, name=name, arguments=json.dumps(arguments, ensure_ascii=False))


class _Value:
    """Finds the end of a JSON object or array, looking at every character once."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self.start = at
        self._end: int | None = None
        self._depth = 0
        self._string = self._escaped = False

    def scan(self, text: str) -> int | None:
        """The index after the value; 0 when there is none; None while it is not complete."""
        while self._end is None and self.at < len(text):
            character = text[self.at]
            self.at += 1
            if self._string:
                self._string = character != '"' or self._escaped
                self._escaped = character == "\\" and not self._escaped
            elif character == '"' and self._depth:
                self._string, self._escaped = True, False
            elif character in "{[":
                self._depth += 1
            elif character in "}]" and self._depth:
                self._depth -= 1
                if not self._depth:
                    self._end = self.at
            elif not self._depth and not character.isspace():
                self._end = 0
        return self._end


def _calls(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and arguments of one call or a list of them; nothing when any is malformed."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    calls = [_name_and_arguments(each) for each in (value if isinstance(value, list) else [value])]
    whole = [call for call in calls if call is not None]
    return whole if len(whole) == len(calls) else []


def _name_and_arguments(value: Any) -> tuple[str, dict[str, Any]] | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not 0 < len(value["name"]) <= _MAX_NAME:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    return (value["name"], arguments) if isinstance(arguments, dict) else None


def _joined(found: list[Found]) -> list[Found]:
    """Without empty texts, neighbouring ones as one."""
    joined: list[Found] = []
    for each in found:
        if isinstance(each, str) and joined and isinstance(joined[-1], str):
            joined[-1] += each
        elif not isinstance(each, str) or each:
            joined.append(each)
    return joined
