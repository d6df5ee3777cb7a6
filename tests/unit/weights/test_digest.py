"""A digest names bytes, and says so when the bytes are others."""

import hashlib

import pytest

from deltaic.errors import Code
from deltaic.v1 import content_pb2
from deltaic.weights.digest import MAX_SIZE, Digest
from deltaic.weights.errors import BadDigest, DigestMismatch


def test_it_is_the_sha256_and_the_size_of_the_bytes():
    digest = Digest.of(b"abc")
    assert digest.sha256 == hashlib.sha256(b"abc").digest()
    assert digest.size == 3
    assert str(digest) == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
def test_any_kind_of_buffer_has_the_same_digest(view):
    assert Digest.of(view(b"abc")) == Digest.of(b"abc")


def test_a_view_of_wide_items_counts_bytes():
    assert Digest.of(memoryview(b"abcdefgh").cast("I")) == Digest.of(b"abcdefgh")


def test_a_stream_has_the_digest_of_its_concatenation():
    assert Digest.of_stream([b"ab", bytearray(b""), memoryview(b"c")]) == Digest.of(b"abc")
    assert Digest.of_stream([]) == Digest.of(b"")


def test_its_text_and_its_message_read_back():
    digest = Digest.of(b"abc")
    assert Digest.parse(str(digest), 3) == digest
    assert Digest.from_proto(digest.to_proto()) == digest


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "0" * 63, "sha256:" + "A" * 64, "md5:" + "0" * 64, "sha256:" + "0" * 64 + "\n"]
)
def test_text_that_is_no_digest_is_refused(text):
    with pytest.raises(BadDigest, match="write sha256:"):
        Digest.parse(text, 0)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_message_with_another_number_of_bytes_is_refused(length):
    with pytest.raises(BadDigest):
        Digest.from_proto(content_pb2.Digest(sha256=b"\0" * length, size=1))


def test_bytes_that_could_still_change_are_refused():
    with pytest.raises(BadDigest):
        Digest(bytearray(32), 1)


@pytest.mark.parametrize("size", [-1, MAX_SIZE + 1])
def test_a_size_that_nothing_has_is_refused(size):
    with pytest.raises(BadDigest):
        Digest(b"\0" * 32, size)


@pytest.mark.parametrize("data", [b"", b"ab", b"abx", b"abcd"])
def test_other_bytes_are_data_loss(data):
    digest = Digest.of(b"abc")
    with pytest.raises(DigestMismatch) as caught:
        digest.verify(data)
    assert caught.value.code is Code.DATA_LOSS
    assert caught.value.metadata == {"digest": str(digest)}
    assert not digest.matches(data)


def test_a_wrong_size_is_said():
    with pytest.raises(DigestMismatch, match="names 3 bytes, got 2"):
        Digest.of(b"abc").verify(b"ab")


def test_its_own_bytes_verify():
    Digest.of(b"abc").verify(memoryview(b"abc"))
