"""Pages of lists in memory."""

import pytest

from deltaic.rpc.pages import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, BadPage, page_of


def walk(items: list[str], size: int) -> list[str]:
    seen: list[str] = []
    token = ""
    while True:
        page = page_of(items, str, size, token)
        seen += page.items
        token = page.next_token
        if not token:
            return seen


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_all_pages_together_are_the_ordered_list(size):
    items = ["ü", "c", "a", "b", "d", "aa", "z"]
    assert walk(items, size) == sorted(items)


def test_an_item_that_goes_away_between_pages_neither_repeats_nor_hides_others():
    first = page_of(["a", "b", "c", "d"], str, 2, "")
    assert page_of(["a", "c", "d"], str, 2, first.next_token).items == ["c", "d"]


def test_the_last_page_has_no_token_even_when_it_is_full():
    assert page_of(["a", "b"], str, 2, "").next_token == ""


def test_zero_means_the_default_size():
    assert len(page_of([f"{n:04}" for n in range(500)], str, 0, "").items) == DEFAULT_PAGE_SIZE


@pytest.mark.parametrize("size", [-1, MAX_PAGE_SIZE + 1])
def test_a_size_out_of_range_is_refused(size):
    with pytest.raises(BadPage, match="bad page size"):
        page_of(["a"], str, size, "")


@pytest.mark.parametrize("token", ["no token", "§", "/w==", "a", "=" * 9, "A" * 5000 + "!"])
def test_a_token_that_was_never_given_is_refused(token):
    with pytest.raises(BadPage, match="page token"):
        page_of(["a"], str, 1, token)
