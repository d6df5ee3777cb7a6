"""One part of a delta reads only what it names, and makes a chunk of the right length or BadDelta."""

from dataclasses import replace

import pytest

from deltaic.weights.delta.apply import make_chunk
from deltaic.weights.delta.index import Codec
from deltaic.weights.errors import BadDelta


def payload_of(made, part):
    pack = made.packs[part.pack] if part.pack >= 0 else b""
    return pack[part.payload_offset : part.payload_offset + part.payload_length]


def reader(made, asked=None):
    data = made.old.read_bytes()

    def read(offset, length):
        if asked is not None:
            asked.append((offset, length))
        return data[offset : offset + length]

    return read


def test_each_part_alone_makes_its_chunk(made):
    new = made.new.read_bytes()
    for part in reversed(made.index.parts):
        chunk = make_chunk(made.index, part, reader(made), payload_of(made, part))
        assert bytes(chunk) == new[part.target_offset : part.target_offset + part.target_length]


def test_a_payload_may_be_a_view_of_a_pack(made):
    for part in made.index.parts:
        chunk = make_chunk(made.index, part, reader(made), memoryview(payload_of(made, part)))
        assert len(chunk) == part.target_length


def test_a_part_reads_only_the_bytes_that_it_names(made):
    for part in made.index.parts:
        asked = []
        make_chunk(made.index, part, reader(made, asked), payload_of(made, part))
        end = part.source_offset + part.source_length
        assert all(part.source_offset <= offset and offset + length <= end for offset, length in asked)


def test_a_payload_of_another_length_is_refused(made):
    part = next(part for part in made.index.parts if part.codec == Codec.RAW)
    with pytest.raises(BadDelta, match="belong"):
        make_chunk(made.index, part, reader(made), payload_of(made, part) + b"x")


def test_a_source_that_is_shorter_than_it_should_be_is_noticed(made):
    for part in made.index.parts:
        if part.source_length:
            with pytest.raises(BadDelta, match="shorter"):
                make_chunk(made.index, part, lambda _offset, length: bytes(length - 1), payload_of(made, part))


def test_a_part_that_is_to_make_another_length_is_refused(made):
    for part in made.index.parts:
        for length in (part.target_length - 1, part.target_length + 1):
            with pytest.raises(BadDelta):
                make_chunk(made.index, replace(part, target_length=length), reader(made), payload_of(made, part))
