"""Calls of tools in the text of an answer: found whole however tokens cut it; what is no call is text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deltaic.engine.worker.tool_stream import ToolStream
from deltaic.engine.worker.tools import ToolFormat
from deltaic.v1 import inference_pb2 as pb

Plain = str | tuple[str, dict[str, object]]

HERMES, LLAMA, MISTRAL = ToolFormat.HERMES, ToolFormat.LLAMA, ToolFormat.MISTRAL
CALL = '{"name": "weather", "arguments": {"city": "Bonn }] \\" </tool_call>"}}'
WEATHER = ("weather", {"city": 'Bonn }] " </tool_call>'})


def read(form: ToolFormat, pieces: list[str]) -> list[Plain]:
    """Text, joined, and calls by name and arguments."""
    stream = ToolStream(form)
    found = [each for piece in pieces for each in stream.push(piece)] + stream.finish()
    plain: list[Plain] = []
    for each in found:
        if isinstance(each, pb.ToolCall):
            plain.append((each.name, json.loads(each.arguments)))
        elif plain and isinstance(plain[-1], str):
            plain[-1] += each
        else:
            plain.append(each)
    return plain


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        (HERMES, "Hello", ["Hello"]),
        (HERMES, f"<tool_call>\n{CALL}\n</tool_call>", [WEATHER]),
        (HERMES, f"Let me look. <tool_call>{CALL}</tool_call>", ["Let me look. ", WEATHER]),
        (HERMES, f"<tool_call>{CALL}</tool_call>\n<tool_call>{CALL}</tool_call>\n", [WEATHER, WEATHER]),
        (HERMES, f"<tool_call>{CALL}</tool_call>\n Done.", [WEATHER, "Done."]),
        (HERMES, f"<tool_call>{CALL}", [WEATHER]),
        (HERMES, f"<tool_call>[{CALL}, {CALL}]</tool_call>", [WEATHER, WEATHER]),
        (HERMES, '<tool_call>{"name": "now"}</tool_call>', [("now", {})]),
        (HERMES, '<tool_call>{"name": "a", "arguments": "{\\"b\\": 1}"}</tool_call>', [("a", {"b": 1})]),
        (HERMES, '<tool_call>{"name": "weather", "arg', ['<tool_call>{"name": "weather", "arg']),
        (HERMES, "<tool_call>{not json}</tool_call>", ["<tool_call>{not json}</tool_call>"]),
        (HERMES, '<tool_call>{"x": 1}</tool_call>', ['<tool_call>{"x": 1}</tool_call>']),
        (HERMES, f"<tool_call>{CALL} and more", [f"<tool_call>{CALL} and more"]),
        (HERMES, f"a <tool_call>b <tool_call>{CALL}</tool_call>", ["a <tool_call>b ", WEATHER]),
        (HERMES, "2 < 3 <tool", ["2 < 3 <tool"]),
        (LLAMA, '{"name": "weather", "parameters": {"city": "Bonn"}}', [("weather", {"city": "Bonn"})]),
        (LLAMA, ' <|python_tag|>{"name": "a", "parameters": {}}', [' <|python_tag|>{"name": "a", "parameters": {}}']),
        (LLAMA, '<|python_tag|>{"name": "a", "parameters": {}}', [("a", {})]),
        (LLAMA, '{"name": "a"}; {"name": "b"}', [("a", {}), ("b", {})]),
        (LLAMA, 'It is {"name": "a"}', ['It is {"name": "a"}']),
        (LLAMA, '{"answer": 42}', ['{"answer": 42}']),
        (MISTRAL, f"[TOOL_CALLS][{CALL}]", [WEATHER]),
        (MISTRAL, f"[TOOL_CALLS] [{CALL}, {CALL}]", [WEATHER, WEATHER]),
        (MISTRAL, "[TOOL_CALLS] none", ["[TOOL_CALLS] none"]),
        (MISTRAL, "[1, 2]", ["[1, 2]"]),
    ],
)
def test_calls_are_found_and_the_rest_is_text(form: ToolFormat, text: str, expected: list[Plain]) -> None:
    assert read(form, [text]) == expected
    assert read(form, list(text)) == expected


_PARTS = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", CALL, '{"name": "a", "parameters": {}}',
        f"[{CALL}]", "{", "}", "[", "]", '"', "\\", " ", "\n", ";", "text", "<", "é",
    ]
)  # fmt: skip


@given(form=st.sampled_from(ToolFormat), parts=st.lists(_PARTS, max_size=8), cuts=st.lists(st.integers(1, 9)))
def test_the_pieces_do_not_matter(form: ToolFormat, parts: list[str], cuts: list[int]) -> None:
    text = rest = "".join(parts)
    pieces = []
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    assert read(form, [*pieces, rest]) == read(form, [text])


@given(form=st.sampled_from(ToolFormat), text=st.text(st.sampled_from('<tool_call>/{}[]TOLCAS" a'), max_size=60))
def test_an_answer_without_a_whole_call_is_its_own_text(form: ToolFormat, text: str) -> None:
    assert "".join(str(each) for each in read(form, list(text))) == text


def test_text_that_cannot_become_a_call_is_not_held_back() -> None:
    stream = ToolStream(HERMES)
    assert stream.push("a < b") == ["a < b"]
    assert stream.push("c <tool_") == ["c "]
    assert stream.push("x") == ["<tool_x"]


def test_every_call_of_an_answer_has_an_identifier_of_nine_letters_and_digits() -> None:
    stream = ToolStream(HERMES)
    calls = [stream.push(f"<tool_call>{CALL}</tool_call>")[0] for _ in range(50)]
    identifiers = {call.id for call in calls if isinstance(call, pb.ToolCall)}
    assert len(identifiers) == 50
    assert all(len(each) == 9 and each.isalnum() for each in identifiers)


def test_openings_within_openings_cost_no_more_than_their_length() -> None:
    """Each character is looked at once: a quadratic reader needs minutes for this."""
    nested = 20_000
    text = "<tool_call>[" * nested + "]" * nested
    assert read(HERMES, [text]) == [text]
