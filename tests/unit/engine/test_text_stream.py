"""Text of an answer: whole characters, nothing of a stop text, the same however tokens cut it."""

from hypothesis import given
from hypothesis import strategies as st

from deltaic.engine.worker.text import TextStream


def stream(pieces: list[bytes], stops: tuple[str, ...] = ()) -> tuple[list[str], bool]:
    text = TextStream(stops)
    out = [text.push(piece) for piece in pieces]
    return [*out, text.finish()], text.stopped


def test_a_character_is_sent_when_its_last_byte_is_there() -> None:
    euro = "€".encode()
    assert stream([b"a", euro[:1], euro[1:2], euro[2:], b"b"])[0] == ["a", "", "", "€", "b", ""]


def test_bytes_that_are_no_character_are_replaced_not_lost() -> None:
    out, _ = stream([b"a\xff", b"\xe2\x82"])
    assert "".join(out) == "a��"


def test_a_stop_text_across_pieces_ends_the_text_before_it() -> None:
    out, stopped = stream([b"one <e", b"n", b"d> two"], ("<end>",))
    assert ("".join(out), stopped) == ("one ", True)


def test_what_looked_like_a_stop_text_is_sent_once_it_is_none() -> None:
    out, stopped = stream([b"1 <e", b"n", b"e"], ("<end>",))
    assert (out, stopped) == (["1 ", "", "<ene", ""], False)


def test_what_is_held_back_comes_at_the_end() -> None:
    assert stream([b"wait <en"], ("<end>",)) == (["wait ", "<en"], False)


def test_the_earliest_of_several_stop_texts_counts() -> None:
    assert "".join(stream([b"a STOP b END"], ("END", "STOP"))[0]) == "a "


def test_nothing_follows_a_stop_text() -> None:
    assert stream([b"a.", b"b", b"c"], (".",))[0] == ["a", "", "", ""]


@given(
    text=st.text(st.sampled_from("ab€<>\n"), max_size=60),
    stops=st.lists(st.text(st.sampled_from("ab€<>"), min_size=1, max_size=4), max_size=3),
    cuts=st.lists(st.integers(1, 5), max_size=200),
)
def test_the_pieces_do_not_matter(text: str, stops: list[str], cuts: list[int]) -> None:
    """Whatever the cuts: the text up to the first place where any stop text is complete, without it."""
    raw, pieces = text.encode(), []
    for cut in (*cuts, len(raw)):
        pieces.append(raw[:cut])
        raw = raw[cut:]
    out, stopped = stream([piece for piece in pieces if piece], tuple(stops))
    whole, whole_stopped = stream([bytes([each]) for each in text.encode()], tuple(stops))
    ends = sorted((text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text)
    assert stopped == whole_stopped == bool(ends)
    assert "".join(out) == "".join(whole) == (text[: ends[0][1]] if ends else text)
