"""What the detectors find, what they leave alone, and that hostile text costs bounded time."""

import pytest

from device import detectors
from device.detectors import MOST_CHARACTERS, Finding, detect

VALUES = {
    "CARD_NUMBER": ["4111111111111111", "4111 1111 1111 1111", "5500-0000-0000-0004", "6222021234567890128"],
    "IBAN": ["DE89370400440532013000", "GB82 WEST 1234 5698 7654 32", "fr1420041010050500013m02606"],
    "CN_RESIDENT_ID": ["11010519491231002X", "11010519491231002x", "360426199101010071"],
    "CN_CREDIT_CODE": ["91110000600037341L"],
    "BR_CPF": ["390.533.447-05", "39053344705"],
    "CA_SIN": ["123-456-782"],
    "DE_TAX_ID": ["36 574 261 809"],
    "ES_ID": ["54362315K", "X-2482300W"],
    "FR_NIR": ["2 95 10 99 126 111 93"],
    "GB_NHS": ["943 476 5870"],
    "IN_AADHAAR": ["2341 2341 2346"],
    "IT_FISCAL_CODE": ["RCCMNL83S18D969H"],
    "KR_RRN": ["971013-9019902"],
    "PL_PESEL": ["44051401359"],
    "US_SSN": ["536-90-4399"],
    "EMAIL_ADDRESS": ["li.wei@example.org", "o'brien+x@mail.example.co.uk", "李@例子.公司"],
    "PHONE_NUMBER": ["+44 20 7946 0958", "13812345678", "138-1234-5678", "(202) 555-0123"],
}
EVERY_VALUE = [(kind, value) for kind, values in VALUES.items() for value in values]


def kinds(text: str) -> set[str]:
    return {finding.kind for finding in detect(text)}


@pytest.mark.parametrize(("kind", "value"), EVERY_VALUE)
def test_a_value_is_found_alone_and_inside_a_sentence(kind: str, value: str) -> None:
    assert kind in kinds(value)
    assert kind in kinds(f"Please note: {value}, and answer soon.")
    assert kind in kinds(f"请记下：{value}。谢谢")


@pytest.mark.parametrize(("kind", "value"), EVERY_VALUE)
def test_a_finding_points_at_the_value_and_does_not_carry_it(kind: str, value: str) -> None:
    text = f"请 {value} ok"
    found = next(finding for finding in detect(text) if finding.kind == kind)
    assert text[found.start : found.end] == value
    assert value not in repr(found)


@pytest.mark.parametrize(
    "written",
    [
        "４１１１１１１１１１１１１１１１",
        "4111\u200b1111\u20601111\u00ad1111",
        "4111\u00a01111\u20071111\u30001111",
        "4111‑1111–1111—1111",
        "٤١١١ ١١١١ ١١١١ ١١١١",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "41 11 11 11 11 11 11 11",
        "4111 1111\n1111 1111",
        "4111 1111\r\n1111 1111",
        "card4111111111111111x",
        "4️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣1️⃣",
        "12 4111 1111 1111 1111 99",
    ],
)
def test_a_card_number_is_found_however_it_is_written(written: str) -> None:
    assert "CARD_NUMBER" in kinds(written)


def test_spans_point_into_the_text_as_it_was_given() -> None:
    text = "\u200b\u200b号码：１３８１２３４５６７８！"
    (found,) = [finding for finding in detect(text) if finding.kind == "PHONE_NUMBER"]
    assert text[found.start : found.end] == "１３８１２３４５６７８"


@pytest.mark.parametrize(
    "harmless",
    [
        "",
        "What is the capital of France?",
        "The meeting is at 10:30 on 2026-11-22, room 4.",
        "Pi is 3.14159265358979, and 2^64 is 18446744073709551616.",
        "Versions 1.2.3 and 10.20.30.40; 100 000 apples at 12,345.67 each.",
        "4111 1111 1111 1112",
        "DE89370400440532013001",
        "11010519491231002",
        "110105194912310021",
        "user@localhost, @mention, a @ b",
        "今天天气怎么样？请写一首关于春天的诗。",
    ],
)
def test_ordinary_text_and_wrong_check_digits_are_left_alone(harmless: str) -> None:
    assert detect(harmless) == ()


def test_a_resident_id_of_an_unlisted_county_is_found() -> None:
    from stdnum.cn import ric

    unlisted = "99999919491231002"
    assert "CN_RESIDENT_ID" in kinds(unlisted + ric.calc_check_digit(unlisted + "0"))


def test_a_text_over_the_limit_is_a_finding_without_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "plain", lambda _: pytest.fail("it was read"))
    assert detect("a" * 101, most_characters=100) == (Finding(0, 101, "TOO_LONG"),)


@pytest.mark.parametrize("broken", ["plain", "find_numbers", "_EMAIL"])
def test_a_detector_that_fails_is_a_finding(monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret text")

    monkeypatch.setattr(detectors, broken, fail)
    assert "DETECTOR_FAILED" in kinds("hello")


def test_a_country_that_does_not_exist_is_a_finding_not_a_silence() -> None:
    assert {finding.kind for finding in detect("hello", phone_regions=["XX"])} == {"DETECTOR_FAILED"}


def test_national_telephone_numbers_are_those_of_the_countries_asked_for() -> None:
    assert detect("call 030 12345678", phone_regions=["CN"]) == ()
    assert detect("call 030 12345678", phone_regions=["DE"])[0].kind == "PHONE_NUMBER"
    assert detect("call +44 20 7946 0958", phone_regions=[])[0].kind == "PHONE_NUMBER"


def test_a_number_behind_many_broken_ones_is_still_found() -> None:
    assert "PHONE_NUMBER" in kinds("(1) " * 5_000 + "13812345678")


@pytest.mark.parametrize(
    "unit",
    [
        "1",
        "1 ",
        "12 ",
        "1234 ",
        "+1-",
        "(",
        "1/1/1 ",
        "1.2.3.4(5)6-",
        "AA11",
        "a@",
        "@a.",
        "a@a.a.a.a ",
        "１ ",
        "\u200b",
    ],
)
@pytest.mark.timeout(60)
def test_hostile_text_as_long_as_is_looked_at_comes_to_an_end(unit: str) -> None:
    text = (unit * MOST_CHARACTERS)[:MOST_CHARACTERS]
    assert all(0 <= finding.start < finding.end <= MOST_CHARACTERS for finding in detect(text))
