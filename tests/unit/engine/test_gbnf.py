"""GBNF: which texts are grammars, and that a grammar allows what it says, whatever it costs others to follow it."""

import re
import time
from contextlib import suppress

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from deltaic.engine.errors import GrammarInvalid
from deltaic.engine.worker.gbnf import to_lark
from deltaic.engine.worker.model import Model


def accepts(model: Model, grammar: str, text: str) -> bool:
    """Whether `text` is in the language: all its tokens may come, and then the end."""
    matcher = model.grammars.from_gbnf(grammar).matcher()
    for token in model.tokenize(text):
        if not matcher.allows(token):
            return False
        matcher.accept(token)
    return matcher.allows(model.eos)


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ("", "'root' is not defined"),
        (" \n# nothing\n", "'root' is not defined"),
        ('other ::= "x"', "'root' is not defined"),
        ("root ::= missing", "'missing' is not defined"),
        ('root ::= "open', "line 1: unexpected end"),
        ("root ::= [a-", "unexpected end"),
        ("root ::= [z-a]", "runs backwards"),
        ("root ::= []", "without characters"),
        ('root ::= ("a"', "expected )"),
        ('root ::= "a")', "end of the rule"),
        ('root = "a"', "expected ::="),
        ('root ::= "a"{2001}', "repetitions go from"),
        ('root ::= "a"{3,2}', "repetitions go from"),
        ('root ::= "a"{99999999999999999999}', "expected {m}"),
        ('root ::= "\\q"', "no such escape"),
        ('root ::= "\\uD800"', "no character"),
        ('root ::= "\\U00110000"', "no character"),
        ("root ::= <think>", "tokens are written"),
        ('root ::= "a"\nroot ::= "b"', "line 2: a rule is defined twice"),
        ("root ::= " + "(" * 100_0 + '"a"' + ")" * 100_0, "nested deeper"),
        ("root ::= " + '"a" ' * 16_000, "symbols"),
        ("\n".join(f"r{i} ::= r{i + 1}" for i in range(4000)) + '\nr4000 ::= "a"\nroot ::= r0', "more than 512 rules"),
        ('root ::= "' + "a" * (1 << 20) + '"', "characters"),
    ],
)
def test_what_is_no_grammar_is_refused_with_the_reason(grammar: str, why: str) -> None:
    with pytest.raises(GrammarInvalid, match=re.escape(why)):
        to_lark(grammar)


@pytest.mark.model
@pytest.mark.parametrize(
    ("grammar", "inside", "outside"),
    [
        ('root ::= "yes" | "no"', ["yes", "no"], ["", "ye", "yesno", "maybe"]),
        ('root ::= "a"* "b"', ["b", "ab", "aaaab"], ["a", "aba"]),
        ('root ::= [a-z]+ "x"', ["ax", "xx", "abxx"], ["x", "ab"]),
        ('root ::= ("a" | "ab") "b"?', ["a", "ab", "abb"], ["b", "abbb"]),
        ('root ::= ("a" | "ab" "c") "b"', ["ab", "abcb"], ["abc"]),
        ('root ::= [^"\\\\]{2,3} # comment\n', ["ab", "é€", "a\nb"], ['a"', "a", "abcd"]),
        ('root ::= "\\x41\\u00e9\\n" [\\]\\-\\\\] [a-]', ["Aé\n]-", "Aé\n-a"], ["Aé\nb-"]),
        ("root ::= (\n  a |\n  b\n)\na ::= .\nb ::= a a", ["€", "xy"], ["", "xyz"]),
        ('root ::= item ("," item)*\nitem ::= "(" root ")" | [0-9]+', ["1,(2,3)", "((42))"], ["(", "1,", "(1"]),
        ('root ::= root "a" | "a"', ["a", "aaaa"], ["", "ba"]),
        ('root ::= "ab"{2} "c"?', ["abab", "ababc"], ["ab", "aab"]),
        ('root ::= ""', [""], ["a"]),
        ("root ::= ", [""], ["a"]),
        ('root ::= "a"{0} "b"{0,1} "c"{0,}', ["", "b", "bcc"], ["a", "bb"]),
        ('root ::= ("a"*)* "b"+?', ["", "aab"], ["ba"]),
    ],
)
def test_a_grammar_allows_its_language(model: Model, grammar: str, inside: list[str], outside: list[str]) -> None:
    assert [text for text in inside if not accepts(model, grammar, text)] == []
    assert [text for text in outside if accepts(model, grammar, text)] == []


_TREES = st.recursive(
    st.sampled_from([('"a"', "a"), ('"ab"', "ab"), ("[ab]", "[ab]"), ("[^a]", "[^a]"), (".", "(?s:.)"), ('""', "")]),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: (" ".join(p[0] for p in parts), "".join(p[1] for p in parts))
        ),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda parts: (f"({' | '.join(p[0] for p in parts)})", f"(?:{'|'.join(p[1] for p in parts)})")
        ),
        st.tuples(inner, st.sampled_from(["*", "?", "+", "{2}", "{1,2}"])).map(
            lambda pair: (f"({pair[0][0]}){pair[1]}", f"(?:{pair[0][1]}){pair[1]}")
        ),
    ),
    max_leaves=6,
)


@pytest.mark.model
@settings(max_examples=60, deadline=None)
@given(tree=_TREES, texts=st.lists(st.text("abc", max_size=5), min_size=3, max_size=8))
def test_a_grammar_without_recursion_is_the_regular_expression_that_it_looks_like(
    model: Model, tree: tuple[str, str], texts: list[str]
) -> None:
    grammar, expression = tree
    for text in texts:
        try:
            accepted = accepts(model, f"root ::= {grammar}", text)
        except GrammarInvalid as error:
            assume("Too many items" not in error.message)  # refused, since it would take too long
            raise
        assert accepted == bool(re.fullmatch(expression, text)), text


@pytest.mark.model
@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= " " root "b" | " " root "c" | "x"',
        'root ::= root root | " " | ""',
        "root ::= a{2000}\na ::= b{2000}\nb ::= c{2000}\nc ::= [a-z ]{2000}",
        "root ::= " + "(" * 60 + '" "*' + ")*" * 60,
        "root ::= " + "a? " * 200 + '"z"\na ::= " "?',
    ],
    ids=["two ends", "any split", "repeated repetitions", "stars of stars", "two hundred options"],
)
def test_an_ambiguous_grammar_is_followed_or_refused_in_bounded_time(model: Model, grammar: str) -> None:
    """llama.cpp's own parser keeps 2^n states after n spaces of the first one; a token may have dozens of them."""
    started = time.process_time()
    with suppress(GrammarInvalid):
        matcher = model.grammars.from_gbnf(grammar).matcher()
        for token in model.tokenize(" " * 200):
            assert matcher.allowed().size
            if not matcher.allows(token):
                break
            matcher.accept(token)
    assert time.process_time() - started < 20


@pytest.mark.model
@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= <[4294967]>",
        'root ::= "\\x00\\uDFFF"',
    ],
)
def test_a_grammar_that_no_answer_can_follow_is_refused(model: Model, grammar: str) -> None:
    with pytest.raises(GrammarInvalid):
        model.grammars.from_gbnf(grammar)


@pytest.mark.model
def test_a_chain_of_as_many_rules_as_there_may_be_is_followed(model: Model) -> None:
    chain = "\n".join(f"r{i} ::= r{i + 1}" for i in range(500)) + '\nr500 ::= "a"\nroot ::= r0'
    assert accepts(model, chain, "a")
