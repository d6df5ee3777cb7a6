"""The guard: the order of its rules, what it judges, and that nothing else can make what leaves."""

import ast
import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

import device
from deltaic.v1 import inference_pb2
from device import egress
from device.egress import KeepLocal, KeepReason, Outbound, Policy, decide, is_outbound
from device.errors import NotAnOutbound

PUBLIC = inference_pb2.SENSITIVITY_PUBLIC
CARD = "4111 1111 1111 1111"


def request(text: str = "What is the capital of France?", **fields: object) -> inference_pb2.GenerateRequest:
    defaults: dict[str, object] = {
        "model": "models/smollm2",
        "messages": [inference_pb2.ChatMessage(role="user", content=text)],
        "sensitivity": PUBLIC,
    }
    return inference_pb2.GenerateRequest(**(defaults | fields))  # type: ignore[arg-type]


def kept(decision: Outbound | KeepLocal) -> KeepLocal:
    assert isinstance(decision, KeepLocal)
    return decision


def test_a_public_request_in_which_nothing_is_found_may_leave_as_it_came() -> None:
    asked = request(stop=["\n\n"], max_tokens=12)
    decision = decide(asked, Policy())
    assert is_outbound(decision)
    assert isinstance(decision, Outbound)
    assert decision.request() == asked


def test_numbers_for_tokens_hold_no_words_and_may_leave() -> None:
    sampling = inference_pb2.Sampling(logit_bias={4111: -100.0, 7: 1.5}, seed=7)
    decision = decide(request(sampling=sampling), Policy())
    assert isinstance(decision, Outbound)
    assert decision.request().sampling == sampling


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [inference_pb2.Tool(name="f", parameters=f'{{"default": "{CARD}"}}')]},
        {"constraint": inference_pb2.Constraint(json_schema=f'{{"const": "{CARD}"}}')},
        {"constraint": inference_pb2.Constraint(grammar=f'root ::= "{CARD}"')},
        {"adapters": [inference_pb2.AdapterUse(name=CARD)]},
        {"messages": [inference_pb2.ChatMessage(tool_calls=[inference_pb2.ToolCall(arguments=CARD)])]},
    ],
)
def test_tools_grammars_and_adapters_are_read_too(fields: dict[str, object]) -> None:
    assert "CARD_NUMBER" in kept(decide(request(**fields), Policy())).kinds


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        (inference_pb2.SENSITIVITY_SENSITIVE, KeepReason.LABELLED_SENSITIVE),
        (inference_pb2.SENSITIVITY_UNSPECIFIED, KeepReason.UNLABELLED),
        (17, KeepReason.UNLABELLED),
    ],
)
def test_every_label_but_public_keeps_even_a_harmless_request(label: int, reason: KeepReason) -> None:
    assert kept(decide(request(sensitivity=label), Policy())).reason is reason


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [inference_pb2.ChatMessage(role="system", content=CARD)]},
        {"messages": [inference_pb2.ChatMessage(role=CARD, content="hello")]},
        {"messages": [inference_pb2.ChatMessage(role="user", content=text) for text in ("a", "b", CARD)]},
        {"messages": [], "prompt": f"Q: is {CARD} mine? A:"},
        {"stop": ["END", CARD]},
        {"model": "models/4111-1111-1111-1111"},
        {"model": "models/smollm2/channels/4111-1111-1111-1111"},
    ],
)
def test_a_value_in_any_text_of_a_public_request_keeps_it(fields: dict[str, object]) -> None:
    decision = kept(decide(request(**fields), Policy()))
    assert decision.reason is KeepReason.DETECTED
    assert "CARD_NUMBER" in decision.kinds


def test_a_number_split_over_two_messages_keeps_the_request() -> None:
    parts = [inference_pb2.ChatMessage(role="user", content=text) for text in ("it is 4111 1111", "1111 1111, ok?")]
    assert "CARD_NUMBER" in kept(decide(request(messages=parts), Policy())).kinds


def test_the_digest_of_a_revision_is_not_taken_for_a_number() -> None:
    name = "models/smollm2/revisions/sha256:" + "4111111111111111" * 4
    assert is_outbound(decide(request(model=name), Policy()))


def test_an_offline_policy_keeps_what_might_otherwise_leave() -> None:
    decision = kept(decide(request(), Policy(offline_only=True)))
    assert decision.reason is KeepReason.OFFLINE_ONLY
    assert not decision.may_be_sensitive


def test_what_was_found_is_said_even_when_the_policy_keeps_everything() -> None:
    assert kept(decide(request(CARD), Policy(offline_only=True))).reason is KeepReason.DETECTED


@pytest.mark.parametrize(
    "too_much",
    [
        request("a" * 101),
        request("", messages=[inference_pb2.ChatMessage(content="a" * 60)] * 2),
        request("", messages=[inference_pb2.ChatMessage(content="")] * egress.MOST_TEXTS, stop=["x"] * 1_001),
    ],
)
def test_more_than_the_detectors_may_read_keeps_the_request(too_much: inference_pb2.GenerateRequest) -> None:
    assert "TOO_LONG" in kept(decide(too_much, Policy(most_characters=100))).kinds


def test_a_failure_of_the_guard_keeps_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(egress.detectors, "detect", fail)
    assert kept(decide(request(), Policy())).reason is KeepReason.GUARD_FAILED


def test_a_model_name_that_does_not_parse_keeps_the_request() -> None:
    assert kept(decide(request(model="models/../my secret"), Policy())).reason is KeepReason.GUARD_FAILED


def test_unknown_fields_of_a_newer_client_do_not_leave() -> None:
    hidden = b"my card is 4111 1111 1111 1111"
    smuggling = inference_pb2.GenerateRequest.FromString(
        request().SerializeToString() + b"\xfa\x01" + bytes([len(hidden)]) + hidden  # field 31, length-delimited
    )
    assert hidden in smuggling.SerializeToString()
    decision = decide(smuggling, Policy())
    assert isinstance(decision, Outbound)
    assert hidden not in decision.serialised


def test_changing_the_request_after_the_decision_changes_nothing_that_leaves() -> None:
    asked = request("harmless")
    decision = decide(asked, Policy())
    asked.messages[0].content = CARD
    assert isinstance(decision, Outbound)
    decision.request().messages[0].content = CARD
    assert decision.request().messages[0].content == "harmless"


def test_every_text_field_of_the_contract_is_judged() -> None:
    filled = request()
    for field in filled.DESCRIPTOR.fields:
        if field.type == field.TYPE_STRING and field.name != "model":
            one = request()
            value = [CARD] if field.is_repeated else CARD
            one.MergeFrom(inference_pb2.GenerateRequest(**{field.name: value}))
            assert kept(decide(one, Policy())).reason is KeepReason.DETECTED, field.name


def test_a_decision_shown_in_a_log_does_not_show_the_request() -> None:
    decision = decide(request("the quiet canary"), Policy())
    assert "canary" not in repr(decision)
    assert "canary" not in str(decision)


def test_nothing_but_the_guard_makes_an_outbound() -> None:
    genuine = decide(request(), Policy())
    assert isinstance(genuine, Outbound)
    with pytest.raises(NotAnOutbound):
        Outbound(genuine.serialised, bytes(32))
    with pytest.raises(NotAnOutbound):
        pickle.dumps(genuine)
    with pytest.raises(NotAnOutbound):
        copy.copy(genuine)
    with pytest.raises(NotAnOutbound):
        Outbound(genuine.serialised, None)  # type: ignore[arg-type]
    with pytest.raises(NotAnOutbound):
        replace(genuine, serialised=b"other")
    with pytest.raises(AttributeError):
        genuine.serialised = b"other"  # type: ignore[misc]
    assert not is_outbound(object.__new__(Outbound))
    object.__setattr__(genuine, "serialised", b"other")
    assert not is_outbound(genuine)
    assert not is_outbound(request())


# --- the code itself ---

SOURCES = sorted(Path(device.__file__).parent.rglob("*.py"))


def names_used(tree: ast.AST) -> set[str]:
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names | {
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def called_names(tree: ast.AST) -> set[str]:
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {f.id if isinstance(f, ast.Name) else f.attr for f in calls if isinstance(f, ast.Name | ast.Attribute)}


def files_where(holds: object) -> set[str]:
    assert callable(holds)
    return {source.name for source in SOURCES if holds(ast.parse(source.read_text()))}


def test_only_the_guard_constructs_an_outbound_or_knows_the_seal() -> None:
    assert files_where(lambda tree: "Outbound" in called_names(tree)) == {"egress.py"}
    assert files_where(lambda tree: names_used(tree) & {"_SEAL_KEY", "_seal_of", "_seal"}) == {"egress.py"}
    assert files_where(lambda tree: "__new__" in names_used(tree)) == set()


def test_only_the_uplink_can_ask_another_node_for_an_answer() -> None:
    assert files_where(lambda tree: "InferenceServiceStub" in names_used(tree)) == {"uplink.py"}


def test_only_the_wiring_opens_channels() -> None:
    openers = {"open_channel", "insecure_channel", "secure_channel"}
    assert files_where(lambda tree: names_used(tree) & openers) <= {"app.py"}


def test_no_file_of_the_device_calls_methods_by_name_or_opens_sockets() -> None:
    def roads(tree: ast.AST) -> set[str]:
        return names_used(tree) & {
            "unary_unary",
            "unary_stream",
            "stream_unary",
            "stream_stream",
            "socket",
            "urllib",
            "getattr",
        }

    assert files_where(roads) == set()


def test_the_uplink_sends_only_what_an_outbound_holds() -> None:
    (uplink,) = [source for source in SOURCES if source.name == "uplink.py"]
    tree = ast.parse(uplink.read_text())
    assert "GenerateRequest" not in called_names(tree)
    (generate,) = [
        node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef) and node.name == "generate"
    ]
    annotation = generate.args.args[1].annotation
    assert isinstance(annotation, ast.Name)
    assert annotation.id == "Outbound"
