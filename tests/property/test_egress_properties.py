"""Whatever is asked: without the word PUBLIC nothing leaves, and with it nothing that carries a known value."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from stdnum import luhn

from deltaic.v1 import inference_pb2
from device.detectors import Finding, detect
from device.egress import KeepLocal, Outbound, Policy, decide, is_outbound

PUBLIC = inference_pb2.SENSITIVITY_PUBLIC
anything = st.text(max_size=200)
# Text beside a value that is not itself a part of a longer number or word.
around = st.text(st.characters(categories=["Ll", "Lo", "Po", "So"], exclude_characters="@._/"), max_size=60)
messages = st.lists(st.builds(inference_pb2.ChatMessage, role=anything, content=anything), max_size=4)
requests = st.builds(
    inference_pb2.GenerateRequest,
    model=st.one_of(st.just("models/m"), anything),
    messages=messages,
    prompt=anything,
    stop=st.lists(anything, max_size=3),
    max_tokens=st.integers(0, 2**32 - 1),
    sensitivity=st.integers(-(2**31), 2**31 - 1),
)


@st.composite
def card_numbers(draw: st.DrawFn) -> str:
    body = draw(st.text(string.digits, min_size=12, max_size=18))
    return body + luhn.calc_check_digit(body)


@st.composite
def grouped_cards(draw: st.DrawFn) -> str:
    number = draw(card_numbers())
    gap = draw(st.sampled_from(["", " ", "-", "\u00a0", ". ", "\n", "–", " - "]))
    return gap.join(number[at : at + 4] for at in range(0, len(number), 4))


@given(requests)
def test_only_a_request_labelled_public_ever_leaves(request: inference_pb2.GenerateRequest) -> None:
    decision = decide(request, Policy())
    assert isinstance(decision, KeepLocal) or (is_outbound(decision) and request.sensitivity == PUBLIC)


@given(requests)
def test_what_leaves_is_what_was_asked(request: inference_pb2.GenerateRequest) -> None:
    request.sensitivity = PUBLIC
    request.model = "models/m"
    decision = decide(request, Policy())
    if isinstance(decision, Outbound):
        assert decision.request() == request


@given(requests)
def test_an_offline_device_sends_nothing(request: inference_pb2.GenerateRequest) -> None:
    assert isinstance(decide(request, Policy(offline_only=True)), KeepLocal)


@given(grouped_cards(), around, around)
def test_a_card_number_is_found_in_any_surroundings(card: str, before: str, after: str) -> None:
    assert "CARD_NUMBER" in {finding.kind for finding in detect(f"{before} {card} {after}")}


@given(grouped_cards(), st.lists(around, max_size=3), st.integers(0, 3), st.sampled_from(["message", "stop", "prompt"]))
def test_a_request_with_a_card_number_stays_wherever_it_is(card: str, others: list[str], at: int, place: str) -> None:
    texts = [*others[:at], card, *others[at:]]
    request = inference_pb2.GenerateRequest(model="models/m", sensitivity=PUBLIC)
    if place == "message":
        request.messages.extend(inference_pb2.ChatMessage(role="user", content=text) for text in texts)
    elif place == "stop":
        request.stop.extend(texts)
    else:
        request.prompt = " ".join(texts)
    assert isinstance(decide(request, Policy()), KeepLocal)


@given(card_numbers(), st.data())
def test_a_card_number_split_over_two_neighbouring_messages_stays(card: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, len(card) - 1))
    request = inference_pb2.GenerateRequest(
        model="models/m",
        sensitivity=PUBLIC,
        messages=[inference_pb2.ChatMessage(role="user", content=part) for part in (card[:at], card[at:])],
    )
    assert isinstance(decide(request, Policy()), KeepLocal)


@settings(max_examples=200)
@given(st.text(max_size=400), st.sampled_from([["CN"], ["CN", "US", "DE"], []]))
def test_findings_of_any_text_lie_inside_it_and_are_in_order(text: str, regions: list[str]) -> None:
    findings = detect(text, phone_regions=regions)
    assert list(findings) == sorted(findings)
    for finding in findings:
        assert isinstance(finding, Finding)
        assert 0 <= finding.start < finding.end <= len(text)
        assert finding.kind != "DETECTOR_FAILED"
