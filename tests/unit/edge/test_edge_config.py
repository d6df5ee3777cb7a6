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


def test_channels_in_a_variable_have_commas(monkeypatch):
    monkeypatch.setenv("DELTAIC_EDGE_CHANNELS", "assistant/stable,central/stable")
    assert load().followed == (ChannelName("assistant", "stable"), ChannelName("central", "stable"))


def test_variables_of_the_command_are_not_judged(monkeypatch, tmp_path):
    file = tmp_path / "edge.toml"
    file.write_text('branch = "seven"\n')
    monkeypatch.setenv("DELTAIC_EDGE_CONFIG", str(file))
    monkeypatch.setenv("DELTAIC_EDGE_ENGINE__SLOTS", "2")
    for name in ("CENTER", "NODE", "CACHE", "MODELS", "CENTER_LISTEN"):
        monkeypatch.setenv(f"DELTAIC_{name}", "127.0.0.1:1")
    settings = load()
    assert (settings.branch, settings.engine.slots) == ("seven", 2)


def test_a_mistyped_variable_is_refused(monkeypatch):
    monkeypatch.setenv("DELTAIC_EDGE_FROB", "0")
    with pytest.raises(BadSettings, match="DELTAIC_EDGE_FROB"):
        load()


def test_the_help_shows_the_folder_that_is_used(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "500")
    with pytest.raises(SystemExit):
        load("--help")
    assert f"(default: {tmp_path}/deltaic/edge)" in capsys.readouterr().out


def test_peers_are_addresses_each_once_in_the_order_given():
    settings = load("--peers", "10.0.0.8:7410,10.0.0.9:7410", "--peers", "10.0.0.8:7410")
    assert settings.peers == ["10.0.0.8:7410", "10.0.0.9:7410"]


def test_a_rate_limit_may_change_with_the_time_of_day(monkeypatch):
    monkeypatch.setenv("DELTAIC_EDGE_FETCH_RATE", "08:00-18:00=2MiB, 18:00-08:00=unlimited")
    assert load().fetch_rate == "08:00-18:00=2MiB, 18:00-08:00=unlimited"


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
        (("--listen", "127.0.0.1:-1"), "listen: not an address"),
        (("--center", ""), "center: not an address"),
        (("--center", "foo:bar"), "center: not an address"),
        (("--center", "127.0.0.1:0"), "port 0"),
        (("--center", "http://127.0.0.1:7400"), "without a scheme"),
        (("--hot-bytes", "lots"), "like 4GiB"),
        (("--peers", "branch-8"), "peers: not an address"),
        (("--fetch-rate", "08:00-18:00"), "fetch_rate: not a number of bytes"),
        (("--fetch-streams", "0"), "fetch_streams"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(flags, word):
    with pytest.raises(BadSettings) as caught:
        load(*flags)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_password_of_the_index_is_not_shown():
    assert "secret" not in repr(load("--index-url", "redis://:secret@127.0.0.1:6379/0"))
