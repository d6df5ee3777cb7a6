"""What the node is asked when a client says this or that."""

import json

import pytest

from deltaic.gateway.caller import tenant_of
from deltaic.v1 import inference_pb2 as pb
from device.detectors import detect

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


async def _asked(face, node, *, headers=None, **fields):
    answer = await face.chat(headers=headers, **fields)
    assert answer.status == 200, answer.raw
    return node.requests[-1]


async def test_every_parameter_of_sampling_arrives(face, node):
    said = {
        "temperature": 0.5,
        "top_p": 0.75,
        "top_k": 7,
        "min_p": 0.25,
        "repeat_penalty": 1.5,
        "frequency_penalty": -1,
        "presence_penalty": 2,
        "seed": 11,
        "logit_bias": {"5": -100, "9": 1.5},
    }
    sampling = (await _asked(face, node, **said)).sampling
    assert {name: getattr(sampling, name) for name in said if name != "logit_bias"} == {
        name: value for name, value in said.items() if name != "logit_bias"
    }
    assert dict(sampling.logit_bias) == {5: -100, 9: 1.5}


async def test_what_is_not_said_is_left_to_the_node(face, node):
    request = await _asked(face, node, temperature=None, stop=None, tools=None, n=None, user=None)
    assert request == pb.GenerateRequest(
        model="models/assistant/channels/stable", messages=[pb.ChatMessage(role="user", content="hi")]
    )


async def test_a_seed_of_64_bits_is_folded(face, node):
    assert (await _asked(face, node, seed=-1)).sampling.seed == 0xFFFFFFFF


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_longest_answer_has_two_names(face, node, name):
    assert (await _asked(face, node, **{name: 33})).max_tokens == 33


@pytest.mark.parametrize(("stop", "meant"), [("###", ["###"]), (["a", "b"], ["a", "b"])])
async def test_stop_is_a_text_or_a_list(face, node, stop, meant):
    assert list((await _asked(face, node, stop=stop)).stop) == meant


async def test_a_conversation_with_tools_arrives_whole(face, node):
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "eva"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    request = await _asked(face, node, messages=messages, tools=[WEATHER], tool_choice="required")
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert (request.messages[1].content, request.messages[1].name) == ("a\nb", "eva")
    assert request.messages[2].tool_calls[0] == pb.ToolCall(id="c1", name="weather", arguments="{}")
    assert (request.messages[3].tool_call_id, request.messages[3].content) == ("c1", "rain")
    assert (request.tools[0].name, json.loads(request.tools[0].parameters)) == ("weather", {"type": "object"})
    assert request.tool_choice.mode == pb.ToolChoice.MODE_REQUIRED


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [
        ("none", pb.ToolChoice.MODE_NONE, ""),
        ("auto", pb.ToolChoice.MODE_AUTO, ""),
        ({"type": "function", "function": {"name": "weather"}}, pb.ToolChoice.MODE_REQUIRED, "weather"),
    ],
)
async def test_choosing_of_tools_has_its_modes(face, node, choice, mode, name):
    asked = (await _asked(face, node, tools=[WEATHER], tool_choice=choice)).tool_choice
    assert (asked.mode, asked.name) == (mode, name)


async def test_an_answer_may_be_limited(face, node):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    asked = (await _asked(face, node, response_format=shape)).constraint
    assert json.loads(asked.json_schema) == schema
    assert (await _asked(face, node, response_format={"type": "json_object"})).constraint.json_object
    assert not (await _asked(face, node, response_format={"type": "text"})).HasField("constraint")
    assert (await _asked(face, node, grammar='root ::= "a"')).constraint.grammar == 'root ::= "a"'


async def test_adapters_and_priority_are_extensions(face, node):
    request = await _asked(face, node, adapters=["legal", {"name": "brief", "scale": 0.5}], priority="low")
    assert [(use.name, use.HasField("scale"), use.scale) for use in request.adapters] == [
        ("legal", False, 0.0),
        ("brief", True, 0.5),
    ]
    assert request.priority == pb.PRIORITY_LOW


@pytest.mark.parametrize(
    ("header", "in_body", "meant"),
    [
        (None, None, pb.SENSITIVITY_UNSPECIFIED),
        ("public", None, pb.SENSITIVITY_PUBLIC),
        (None, "public", pb.SENSITIVITY_PUBLIC),
        ("public", "sensitive", pb.SENSITIVITY_SENSITIVE),
        ("Sensitive", "public", pb.SENSITIVITY_SENSITIVE),
    ],
)
async def test_where_header_and_body_differ_a_prompt_is_sensitive(face, node, header, in_body, meant):
    headers = {"x_deltaic_sensitivity": header} if header else {}
    fields = {"sensitivity": in_body} if in_body else {}
    assert (await _asked(face, node, headers=headers, **fields)).sensitivity == meant


async def test_a_tenant_is_told_by_its_key_and_the_key_goes_nowhere(face, node):
    def key(word):
        return {"authorization": f"Bearer {word}"}

    first = await _asked(face, node, headers=key("sk-one"))
    again = await _asked(face, node, headers=key("sk-one"))
    other = await _asked(face, node, headers=key("sk-two"))
    nobody = await _asked(face, node)
    assert first.tenant == again.tenant
    assert len({first.tenant, other.tenant, nobody.tenant}) == 3
    assert nobody.tenant == ""
    assert b"sk-one" not in first.SerializeToString()


def test_no_tenant_looks_like_a_number_to_a_device():
    for number in range(2_000):
        assert not list(detect(tenant_of({"authorization": f"Bearer {number}"})))


async def test_the_deadline_is_in_a_header_or_the_nodes(face, node):
    await _asked(face, node, headers={"x_deltaic_timeout": "7.5"})
    await _asked(face, node)
    assert 7 < node.seconds[0] <= 7.5
    assert 119 < node.seconds[1] <= 120
