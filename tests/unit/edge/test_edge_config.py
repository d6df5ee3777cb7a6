"""Settings of an edge: names and addresses are checked before anything starts."""

import pytest

from deltaic.names import ChannelName
from deltaic.runtime.settings import BadSettings
from edge.config import EdgeSettings


def load(*argv: str) -> EdgeSettings:
    return EdgeSettings.load(argv, prog="deltaic edge")


def test_channels_may_be_written_short_and_twice():
    settings = load("--channels", "assistant/stable", "--channels", "models/assistant/channels/stable")
    assert settings.followed == (ChannelName("assistant", "stable"),)


def test_sizes_are_written_as_people_write_them():
    assert load("--hot-bytes", "2GiB").hot_bytes == 2 << 30


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--channels", "Not A Name"), "channels"),
        (("--index-url", "http://127.0.0.1"), "redis://"),
        (("--branch", "a:b"), "branch"),
        (("--hot-bytes", "0"), "hot_bytes"),
        (("--colour", "blue"), "colour"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(flags, word):
    with pytest.raises(BadSettings) as caught:
        load(*flags)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_password_of_the_index_is_not_shown():
    assert "secret" not in repr(load("--index-url", "redis://:secret@127.0.0.1:6379/0"))
