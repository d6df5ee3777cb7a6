"""Digests of prompts and tenants: alike where prompts begin alike, and nothing without the secret."""

import pytest

from deltaic.v1 import inference_pb2 as pb
from edge.index.prefixes import MAX_DIGESTS, PrefixBook
from edge.index.secret import BLOCK, MAX_BLOCKS, IndexSecret, known_blocks
from edge.response_cache import RevisionName

SECRET = IndexSecret("only the edges know")
SYSTEM = "You help in a hospital. " * 50


def chat(question: str, **fields) -> pb.GenerateRequest:
    messages = [pb.ChatMessage(role="system", content=SYSTEM), pb.ChatMessage(role="user", content=question)]
    return pb.GenerateRequest(**({"messages": messages, "tenant": "ward"} | fields))


def test_prompts_that_begin_alike_share_the_digests_of_their_beginnings():
    first, second = SECRET.prefixes(chat("What is a fever? " * 40)), SECRET.prefixes(chat("Who is on duty? " * 40))
    shared = [a for a, b in zip(first, second, strict=False) if a == b]
    assert len(shared) == len(SYSTEM) // BLOCK == first.index(first[len(shared)])
    assert known_blocks(second, frozenset(first)) == len(shared)
    assert known_blocks(first, frozenset(first)) == len(first)
    assert known_blocks(first, frozenset()) == 0


@pytest.mark.parametrize("fields", [{"tenant": "kitchen"}, {"adapters": [pb.AdapterUse(name="tone")]}])
def test_other_tenants_and_adapters_share_nothing(fields):
    assert not set(SECRET.prefixes(chat("x"))) & set(SECRET.prefixes(chat("x", **fields)))


def test_another_secret_makes_other_digests_and_none_makes_none():
    assert not set(SECRET.prefixes(chat("x"))) & set(IndexSecret("another").prefixes(chat("x")))
    assert IndexSecret().prefixes(chat("x")) == ()


def test_short_prompts_have_no_digest_and_long_ones_a_bounded_number():
    assert SECRET.prefixes(pb.GenerateRequest(prompt="x" * (BLOCK - 1))) == ()
    assert len(SECRET.prefixes(pb.GenerateRequest(prompt="x" * BLOCK))) == 1
    assert len(SECRET.prefixes(pb.GenerateRequest(prompt="x" * 1_000_000))) == MAX_BLOCKS


def test_tenants_are_told_apart_without_being_named():
    digests = {SECRET.tenant("ward"), SECRET.tenant("kitchen"), IndexSecret().tenant("ward")}
    assert len(digests) == 3
    assert all(len(digest) == 32 and "ward" not in digest for digest in digests)


def test_the_book_keeps_the_newest():
    book, revision = PrefixBook(), RevisionName("m", "sha256:" + "a" * 64)
    for number in range(MAX_DIGESTS + 5):
        book.read(revision, (f"{number:016x}",))
    assert len(book.of(revision)) == MAX_DIGESTS
    assert book.of(revision)[-1] == f"{MAX_DIGESTS + 4:016x}"
