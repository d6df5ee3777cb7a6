"""The radix tree: what is found, what is forgotten, and that it agrees with looking at every text."""

from hypothesis import given
from hypothesis import strategies as st

from deltaic.engine.scheduling.prefixes import Held, Prefixes, common
from deltaic.engine.scheduling.request import Scope

TEXTS = st.lists(st.lists(st.integers(0, 2), max_size=12).map(tuple), max_size=12)


@given(TEXTS, st.lists(st.integers(0, 2), max_size=12), st.data())
def test_it_finds_what_a_look_at_every_text_finds(texts: list[tuple[int, ...]], wanted: list[int], data) -> None:
    tree = Prefixes()
    all_held = [Held(Scope(), text) for text in texts]
    for held in all_held:
        tree.add(held)
    for held in data.draw(st.permutations(all_held))[: len(all_held) // 2]:
        tree.remove(held)
        all_held = [each for each in all_held if each is not held]
    found = list(tree.matches(Scope(), wanted))
    assert {id(held): length for length, held in found} == {
        id(held): common(held.tokens, tuple(wanted)) for held in all_held
    }
    assert [length for length, _ in found] == sorted((length for length, _ in found), reverse=True)


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)))
def test_common_is_the_length_of_the_shared_beginning(one: list[int], other: list[int]) -> None:
    length = common(one, other)
    assert one[:length] == other[:length]
    assert one[length : length + 1] != other[length : length + 1] or len(one) == length or len(other) == length


def test_scopes_never_see_each_other() -> None:
    tree = Prefixes()
    tree.add(Held(Scope("a"), (1, 2, 3)))
    assert list(tree.matches(Scope("b"), (1, 2, 3))) == []
    assert list(tree.matches(Scope("a", (("x", 1.0),)), (1, 2, 3))) == []


def test_nothing_is_left_of_what_was_removed() -> None:
    tree = Prefixes()
    held = [Held(Scope(), text) for text in ((1, 2, 3), (1, 2), (1, 5), ())]
    for each in held:
        tree.add(each)
    for each in held:
        tree.remove(each)
    assert list(tree.matches(Scope(), (1, 2, 3))) == []
    assert tree._roots == {}
