"""Page tokens: opaque, and checked when they come back."""

import base64
import json

import pytest

from deltaic.rpc.pages import BadPage, decode_token, encode_token, page_size


def forged(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_a_token_leads_back_to_its_position() -> None:
    token = encode_token("list", 7, "word")
    assert decode_token(token, "list", int, str) == (7, "word")
    assert decode_token("", "list", int, str) is None


@pytest.mark.parametrize(
    "token",
    [
        "!",
        "a" * 3_000,
        "ä",
        forged("list"),
        forged({"list": 7}),
        forged(["list"]),
        forged(["list", 7]),
        forged(["other", 7, "word"]),
        forged(["list", True, "word"]),
        forged(["list", -1, "word"]),
        forged(["list", 1 << 63, "word"]),
        forged(["list", 7, "\ud800"]),
        forged(["list", 7, None]),
        encode_token("list", 7, "word")[:-2],
    ],
)
def test_a_token_that_was_never_given_out_is_refused(token: str) -> None:
    with pytest.raises(BadPage):
        decode_token(token, "list", int, str)


def test_page_sizes_have_bounds_and_a_default() -> None:
    assert [page_size(asked) for asked in (0, 1, 1_000)] == [100, 1, 1_000]
    for asked in (-1, 1_001):
        with pytest.raises(BadPage):
            page_size(asked)
