"""Compression: only where it pays, never further than promised."""

import random
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from deltaic.transfer.compression import Expander, LineSpeed, compress_if_it_pays
from deltaic.transfer.errors import BadFrame

TEXT = b"the vocabulary of a model is text " * 10_000


def test_text_is_compressed_and_weights_are_not() -> None:
    packed = compress_if_it_pays(TEXT)
    assert packed is not None
    assert len(packed) < len(TEXT) / 10
    assert compress_if_it_pays(random.Random(1).randbytes(1 << 20)) is None


def test_a_few_bytes_are_left_alone() -> None:
    assert compress_if_it_pays(b"a" * 100) is None


def test_a_bomb_ends_early_and_small() -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    assert len(bomb) < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame, match="expands beyond"):
            Expander(1 << 20).expand(bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_what_is_not_zstd_is_refused() -> None:
    with pytest.raises(BadFrame, match="does not decompress"):
        Expander(100).expand(b"these are no compressed bytes at all")


def test_a_window_beyond_the_limit_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = packed.compress(TEXT) + packed.flush()
    with pytest.raises(BadFrame, match="does not decompress"):
        Expander(len(TEXT)).expand(frame)


@given(st.binary(max_size=5_000).map(lambda data: data * 7), st.integers(1, 400))
def test_a_frame_in_any_pieces_gives_the_same_bytes(data: bytes, step: int) -> None:
    packed = zstandard.ZstdCompressor().compress(data)
    expander = Expander(len(data))
    pieces = [expander.expand(packed[start : start + step]) for start in range(0, len(packed), step)]
    assert b"".join(pieces) == data


def test_a_beginning_that_is_not_like_the_rest_misleads_nobody() -> None:
    noise, words = random.Random(2).randbytes(1 << 20), TEXT[: 64 * 1024]
    assert compress_if_it_pays(words + noise) is None, "6 % less is not worth the time of both sides"
    assert compress_if_it_pays(noise + words) is None
    packed = compress_if_it_pays(noise[: 64 * 1024] + TEXT)
    assert packed is not None
    assert zstandard.decompress(packed) == noise[: 64 * 1024] + TEXT


def test_incompressible_data_is_only_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed: list[int] = []
    real = zstandard.ZstdCompressor

    class Counting:
        def __init__(self, level: int) -> None:
            self._real = real(level=level)

        def compress(self, data: bytes) -> bytes:
            compressed.append(len(data))
            return self._real.compress(data)

    monkeypatch.setattr("deltaic.transfer.compression.zstandard.ZstdCompressor", Counting)
    assert compress_if_it_pays(random.Random(3).randbytes(4 << 20)) is None
    assert compressed == [64 * 1024]


def brings(line: LineSpeed, count: int, seconds: float, *, since: float = 0.0, streams: int = 1) -> float:
    """Each of the streams waits so long for a frame of so many bytes; the time after it."""
    for _ in range(streams):
        line.waits(since)
    for _ in range(streams):
        line.comes(count, since + seconds)
    return since + seconds


def test_a_line_is_fast_only_when_enough_has_come_to_tell() -> None:
    line = LineSpeed()
    now = brings(line, 100_000, 0.0)
    assert not line.outruns_zstd
    for _ in range(40):
        now = brings(line, 256 * 1024, 0.001, since=now)
    assert line.outruns_zstd
    for _ in range(400):
        now = brings(line, 256 * 1024, 0.02, since=now)
    assert not line.outruns_zstd, "it has become slow"


def test_streams_that_wait_together_share_the_line() -> None:
    line, now = LineSpeed(), 0.0
    for _ in range(10):
        now = brings(line, 256 * 1024, 0.008, since=now, streams=8)
    assert line.outruns_zstd, "256 MiB a second in all, 32 in each"


def test_time_in_which_nobody_waits_does_not_count() -> None:
    line = LineSpeed()
    for second in range(10):
        brings(line, 256 * 1024, 0.001, since=float(second))
    assert line.outruns_zstd
