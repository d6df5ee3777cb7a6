"""The size of a frame follows the line."""

from deltaic.transfer.frames import FrameSize

KIB = 1024


def sizes(frames: FrameSize, *seconds: float) -> list[int]:
    seen = []
    for each in seconds:
        seen.append(frames.size // KIB)
        frames.sent(each)
    return seen


def test_frames_begin_short_and_grow_to_a_mebibyte_on_a_fast_line() -> None:
    seen = sizes(FrameSize(), *[0.001] * 14)
    assert seen == [32, 32, 64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024, 1024, 1024]


def test_frames_stay_short_on_a_slow_line() -> None:
    assert sizes(FrameSize(), *[0.3] * 10) == [32] * 10


def test_frames_shrink_when_the_line_becomes_slow() -> None:
    frames = FrameSize()
    sizes(frames, *[0.001] * 12)
    assert sizes(frames, *[2.0] * 8) == [1024, 512, 256, 128, 64, 32, 32, 32]
