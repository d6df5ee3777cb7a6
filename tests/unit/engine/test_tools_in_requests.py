"""Tools, constraints and the rest of a request: what becomes a job, what a model is shown, what is refused."""

import json

import pytest

from deltaic.engine.errors import BadRequest, GrammarInvalid, PromptTooLong, SchemaInvalid
from deltaic.engine.worker.conversation import to_tools, to_turns
from deltaic.engine.worker.executor import Loaded
from deltaic.engine.worker.requests import embed_inputs, prompt_tokens, to_job
from deltaic.engine.worker.sampling import SamplingParameters
from deltaic.engine.worker.template import ChatTemplate
from deltaic.engine.worker.tool_stream import ToolStream
from deltaic.engine.worker.tools import Tool, ToolFormat, forced_calls
from deltaic.v1 import inference_pb2 as pb
from tests.unit.engine.conftest import CONTEXT_TOKENS, Answering

SCHEMA = '{"type": "object", "properties": {"city": {"enum": ["Bonn", "Rome"]}}, "required": ["city"]}'
WEATHER = pb.Tool(name="get_weather", description="The weather of a city.", parameters=SCHEMA)
NOW = pb.Tool(name="now", description="The time.")
ASK = pb.ChatMessage(role="user", content="How is the weather in Bonn?")
CALLED = pb.ChatMessage(
    role="assistant", tool_calls=[pb.ToolCall(id="c00000001", name="get_weather", arguments='{"city": "Bonn"}')]
)
SUNNY = pb.ChatMessage(role="tool", content="Sunny", tool_call_id="c00000001", name="get_weather")
REQUIRED = pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED)

HERMES_TEMPLATE = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}{% for m in messages %}<{{ m.role }}>"
    "{{ m.content }}{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}{% endfor %}"
)
TEXT_TEMPLATE = (
    "{% if tools %}{% endif %}{% for m in messages %}{% for c in m.tool_calls %}"
    "{{ c.function.name + ':' + c.function.arguments }}{% endfor %}{% endfor %}"
)


def turns() -> list[dict[str, object]]:
    return to_turns([ASK, CALLED, SUNNY])


def test_a_template_that_knows_tools_gets_them_and_calls_as_openai_has_them() -> None:
    text = ChatTemplate(HERMES_TEMPLATE).render(turns(), to_tools([WEATHER]))
    shown = json.loads(text[: text.index("<user>")])
    assert (shown["type"], shown["function"]["name"]) == ("function", "get_weather")
    assert shown["function"]["parameters"] == json.loads(SCHEMA)
    assert '<tool_call>{"name": "get_weather", "arguments": {"city": "Bonn"}}</tool_call><tool>Sunny' in text


def test_a_template_that_writes_arguments_as_they_are_gets_them_as_text() -> None:
    assert ChatTemplate(TEXT_TEMPLATE).render(turns()) == 'get_weather:{"city": "Bonn"}'


def test_a_template_that_knows_no_tools_is_given_them_in_words() -> None:
    text = ChatTemplate(None).render(turns(), to_tools([WEATHER, NOW]))
    assert text.startswith("<|im_start|>system\nYou may call functions")
    assert '"name": "get_weather"' in text
    assert '"name": "now"' in text
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Bonn"}}\n</tool_call><|im_end|>' in text
    assert "<|im_start|>user\n<tool_response>\nSunny\n</tool_response><|im_end|>" in text
    kind = [{"role": "system", "content": "Be kind"}, *turns()]
    assert ChatTemplate(None).render(kind, to_tools([NOW])).startswith("<|im_start|>system\nBe kind\n\nYou may call")


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (None, ToolFormat.HERMES),
        (HERMES_TEMPLATE, ToolFormat.HERMES),
        ("{% if tools %}[AVAILABLE_TOOLS]{% endif %}[TOOL_CALLS]", ToolFormat.MISTRAL),
        ('{% if tools %}{"name": "f", "parameters": {}}{{ "parameters": }}{% endif %}', ToolFormat.LLAMA),
    ],
)
def test_the_notation_of_calls_is_read_off_the_template(text: str | None, form: ToolFormat) -> None:
    assert ToolFormat.of_template(text) is form


@pytest.mark.parametrize(
    "tool",
    [
        pb.Tool(name=""),
        pb.Tool(name="has space"),
        pb.Tool(name="x" * 65),
        pb.Tool(name='quote"'),
        pb.Tool(name="ü"),
        pb.Tool(name="x", description="y" * 200_000),
    ],
)
def test_a_tool_without_a_usable_name_or_too_long_is_refused(tool: pb.Tool) -> None:
    with pytest.raises(BadRequest):
        to_tools([tool])


@pytest.mark.parametrize("parameters", ["{", "[]", "7", '{"type": "string"}', '{"a":' * 100 + "1" + "}" * 100])
def test_a_tool_whose_schema_is_none_is_refused_by_name(parameters: str) -> None:
    with pytest.raises(SchemaInvalid, match="tool broken"):
        to_tools([pb.Tool(name="broken", parameters=parameters)])


def test_tools_are_bounded_in_number_and_each_has_its_own_name() -> None:
    with pytest.raises(BadRequest, match="129 tools"):
        to_tools([pb.Tool(name=f"t{index}") for index in range(129)])
    with pytest.raises(BadRequest, match="same name"):
        to_tools([NOW, NOW])
    assert to_tools([NOW]) == (Tool("now", "The time.", to_tools([NOW])[0].parameters),)


@pytest.mark.parametrize(
    "message",
    [
        pb.ChatMessage(role="user", tool_calls=CALLED.tool_calls),
        pb.ChatMessage(role="user", tool_call_id="x"),
        pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(name="x", arguments="[1]")]),
        pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(name="x", arguments="{")]),
        pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(name="x y")]),
        pb.ChatMessage(role="assistant", tool_calls=[pb.ToolCall(name="now")] * 129),
        pb.ChatMessage(role="developer"),
    ],
)
def test_a_turn_that_makes_no_sense_is_refused(message: pb.ChatMessage) -> None:
    with pytest.raises(BadRequest):
        to_turns([message])


@pytest.mark.model
def test_a_request_becomes_a_job_with_all_that_it_asks(loaded: Loaded) -> None:
    request = pb.GenerateRequest(
        messages=[ASK], max_tokens=7, stop=["."], tenant="ward-3", priority=pb.PRIORITY_HIGH, choices=3, top_logprobs=0,
        adapters=[pb.AdapterUse(name="legal"), pb.AdapterUse(name="brief", scale=0.5)], tools=[WEATHER],
        sampling=pb.Sampling(seed=5),
    )  # fmt: skip
    job = to_job(request, loaded, 12.5)
    assert (job.budget, job.stops, job.tenant, job.priority, job.choices) == (7, (".",), "ward-3", 3, 3)
    assert (job.adapters, job.top_logprobs, job.deadline) == ((("legal", 1.0), ("brief", 0.5)), 0, 12.5)
    assert (job.grammar, job.tools, job.sampling.seed) == (None, ToolFormat.HERMES, 5)
    plain = to_job(pb.GenerateRequest(prompt="Hello"), loaded, 1.0)
    assert (plain.choices, plain.priority, plain.top_logprobs, plain.tools, plain.adapters) == (1, 2, None, None, ())


@pytest.mark.model
def test_tools_are_counted_with_the_prompt_and_shown_even_when_none_may_be_called(loaded: Loaded) -> None:
    with_tools = pb.GenerateRequest(
        messages=[ASK], tools=[WEATHER], tool_choice=pb.ToolChoice(mode=pb.ToolChoice.MODE_NONE)
    )
    job = to_job(with_tools, loaded, 1.0)
    assert job.tools is None
    counted = prompt_tokens(pb.CountTokensRequest(messages=[ASK], tools=[WEATHER]), loaded.model)
    assert counted == job.prompt
    assert len(counted) > len(prompt_tokens(pb.CountTokensRequest(messages=[ASK]), loaded.model))


@pytest.mark.model
@pytest.mark.parametrize(
    "change",
    [
        {"stop": ["x"] * 10_000},
        {"choices": 17},
        {"top_logprobs": 21},
        {"priority": 9},
        {"tenant": "x" * 257},
        {"adapters": [pb.AdapterUse(name=f"a{index}") for index in range(9)]},
        {"adapters": [pb.AdapterUse(name="a", scale=float("nan"))]},
        {"adapters": [pb.AdapterUse(name="a", scale=1e9)]},
        {"adapters": [pb.AdapterUse(name="")]},
        {"adapters": [pb.AdapterUse(name="a"), pb.AdapterUse(name="a", scale=2)]},
        {"prompt": "both"},
        {"tool_choice": REQUIRED},
        {"tools": [NOW], "tool_choice": pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED, name="other")},
        {"tools": [NOW], "tool_choice": REQUIRED, "constraint": pb.Constraint(json_object=True)},
        {"tools": [NOW], "tool_choice": pb.ToolChoice(mode=9)},
        {"messages": [], "prompt": "x", "tools": [NOW]},
        {"messages": []},
    ],
    ids=lambda change: str(change)[:60],
)
def test_what_a_request_may_not_ask_is_refused(loaded: Loaded, change: dict[str, object]) -> None:
    arguments: dict[str, object] = {"messages": [ASK], **change}
    with pytest.raises(BadRequest):
        to_job(pb.GenerateRequest(**arguments), loaded, 1.0)


@pytest.mark.model
def test_a_constraint_that_cannot_be_followed_is_refused_before_it_is_queued(loaded: Loaded) -> None:
    with pytest.raises(GrammarInvalid):
        to_job(pb.GenerateRequest(prompt="x", constraint=pb.Constraint(grammar='root ::= "')), loaded, 1.0)
    with pytest.raises(GrammarInvalid):
        to_job(pb.GenerateRequest(prompt="x", constraint=pb.Constraint(grammar="roof ::= x")), loaded, 1.0)
    with pytest.raises(SchemaInvalid):
        to_job(pb.GenerateRequest(prompt="x", constraint=pb.Constraint(json_schema="{")), loaded, 1.0)
    unfit = pb.Tool(name="unfit", parameters='{"properties": {"a": {"type": "nothing"}}, "required": ["a"]}')
    with pytest.raises(SchemaInvalid):
        to_job(pb.GenerateRequest(messages=[ASK], tools=[unfit], tool_choice=REQUIRED), loaded, 1.0)


@pytest.mark.model
def test_a_prompt_that_is_too_long_for_certain_is_never_tokenised(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokenize(text: str) -> tuple[int, ...]:
        raise AssertionError(f"{len(text)} characters were tokenised")

    with monkeypatch.context() as patch:
        patch.setattr(loaded.model, "tokenize", tokenize)
        for text in ("x" * 4_000_000, "€ " * 1_000_000):
            with pytest.raises(PromptTooLong, match="at least"):
                to_job(pb.GenerateRequest(prompt=text), loaded, 1.0)
            with pytest.raises(PromptTooLong, match="at least"):
                embed_inputs(pb.EmbedRequest(inputs=[text]), loaded.model, CONTEXT_TOKENS)
    with pytest.raises(PromptTooLong, match="the prompt has"):
        to_job(pb.GenerateRequest(prompt="word " * CONTEXT_TOKENS), loaded, 1.0)


@pytest.mark.model
def test_inputs_to_embed_are_token_lists_or_named_errors(loaded: Loaded) -> None:
    inputs = embed_inputs(pb.EmbedRequest(inputs=["one", "two words"]), loaded.model, CONTEXT_TOKENS)
    assert inputs == (loaded.model.tokenize("one"), loaded.model.tokenize("two words"))
    for request, error in (
        (pb.EmbedRequest(), BadRequest),
        (pb.EmbedRequest(inputs=["a", ""]), BadRequest),
        (pb.EmbedRequest(inputs=["a"] * 2049), BadRequest),
        (pb.EmbedRequest(inputs=["a", "word " * CONTEXT_TOKENS]), PromptTooLong),
    ):
        with pytest.raises(error):
            embed_inputs(request, loaded.model, CONTEXT_TOKENS)


@pytest.mark.model
@pytest.mark.parametrize("name", ["", "get_weather"])
def test_a_required_call_is_made_with_arguments_of_its_schema(loaded: Loaded, answering: Answering, name: str) -> None:
    choice = pb.ToolChoice(mode=pb.ToolChoice.MODE_REQUIRED, name=name)
    job = to_job(pb.GenerateRequest(messages=[ASK], tools=[WEATHER], tool_choice=choice), loaded, 1.0)
    assert job.tools is not None
    text = answering.text(job.prompt, SamplingParameters(temperature=0), job.grammar, most=80)
    stream = ToolStream(job.tools)
    found = stream.push(text) + stream.finish()
    call = found[0]
    assert isinstance(call, pb.ToolCall)
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in ("Bonn", "Rome")
    assert not name or len(found) == 1


@pytest.mark.model
@pytest.mark.parametrize("form", ToolFormat)
def test_every_notation_that_is_forced_is_also_read(loaded: Loaded, form: ToolFormat) -> None:
    tools = to_tools([WEATHER, NOW])
    key = "parameters" if form is ToolFormat.LLAMA else "arguments"
    call = f'{{"name": "get_weather", "{key}": {{"city": "Rome"}}}}'
    text = {"hermes": f"<tool_call>\n{call}\n</tool_call>", "llama": call, "mistral": f"[TOOL_CALLS][{call}]"}[
        form.value
    ]
    matcher = loaded.model.grammars.from_lark(forced_calls(tools, form, lambda _: None, most=8)).matcher()
    for token in loaded.model.tokenize(text):
        assert matcher.allows(token)
        matcher.accept(token)
    assert matcher.allows(loaded.model.eos)
    stream = ToolStream(form)
    (found,) = stream.push(text) + stream.finish()
    assert isinstance(found, pb.ToolCall)
    assert (found.name, json.loads(found.arguments)) == ("get_weather", {"city": "Rome"})
