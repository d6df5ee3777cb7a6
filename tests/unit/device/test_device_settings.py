"""What an operator may say to a device, and what the device refuses to be told."""

from pathlib import Path

import pytest

from deltaic.runtime.settings import BadSettings
from device.config import DeviceSettings, is_local
from device.egress import Policy
from device.errors import ListensToNetwork


def load(*flags: str) -> DeviceSettings:
    return DeviceSettings.load(flags, prog="deltaic device")


def test_a_device_told_nothing_listens_to_this_machine_and_keeps_to_itself() -> None:
    settings = load()
    assert settings.listen == "127.0.0.1:7420"
    assert settings.upstream == "127.0.0.1:7410"
    assert (settings.prefer, settings.offline_only, settings.allow_remote) == ("device", False, False)
    assert settings.policy == Policy()
    settings.check_listen()


def test_the_policy_is_what_the_flags_say() -> None:
    settings = load(
        "--offline-only", "true", "--phone-regions", "DE", "--phone-regions", "FR", "--most-characters", "99"
    )
    assert settings.policy == Policy(offline_only=True, phone_regions=("DE", "FR"), most_characters=99)


def test_lists_in_variables_have_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELTAIC_DEVICE_PHONE_REGIONS", "DE,FR")
    monkeypatch.setenv("DELTAIC_DEVICE_CHANNELS", "m/stable,n/stable")
    settings = load()
    assert settings.phone_regions == ["DE", "FR"]
    assert settings.channels == ["models/m/channels/stable", "models/n/channels/stable"]


def test_a_device_may_have_more_edges_and_a_limit() -> None:
    settings = load("--peers", "10.0.0.8:7410", "--fetch-rate", "500kB", "--fetch-streams", "2")
    assert (settings.peers, settings.fetch_rate, settings.fetch_streams) == (["10.0.0.8:7410"], "500kB", 2)


def test_channels_may_be_written_short_and_are_kept_in_full() -> None:
    assert load("--channels", "m/stable").channels == ["models/m/channels/stable"]


def test_layers_on_a_gpu_are_a_setting_of_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load("--engine.gpu-layers", "-1").engine.gpu_layers == -1
    monkeypatch.setenv("DELTAIC_DEVICE_ENGINE__GPU_LAYERS", "12")
    assert load().engine.gpu_layers == 12


@pytest.mark.parametrize(
    "flags",
    [
        ("--channels", "m/stable/extra"),
        ("--phone-regions", "XX"),
        ("--prefer", "cloud"),
        ("--patience", "0"),
        ("--report-seconds", "-1"),
        ("--most-characters", "0"),
        ("--listen", "nonsense"),
        ("--upstream", "http://edge:7410"),
        ("--engine.slots", "0"),
        ("--unknown", "1"),
        ("--data-dir",),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_clear_line(flags: tuple[str, ...]) -> None:
    with pytest.raises(BadSettings) as caught:
        load(*flags)
    assert "\n" not in str(caught.value)
    assert "deltaic device --help" in str(caught.value)


def test_a_file_may_say_it_all(tmp_path: Path) -> None:
    file = tmp_path / "device.toml"
    file.write_text('upstream = "edge.branch:7410"\nchannels = ["m/stable"]\n[engine]\nslots = 2\n')
    settings = load("--config", str(file))
    assert (settings.upstream, settings.engine.slots) == ("edge.branch:7410", 2)


@pytest.mark.parametrize(
    "listen",
    ["127.0.0.1:7420", "127.9.9.9:0", "localhost:7420", "[::1]:7420", "unix:/run/device.sock", "unix:device.sock"],
)
def test_addresses_of_this_machine_alone_are_local(listen: str) -> None:
    assert is_local(listen)


@pytest.mark.parametrize(
    "listen",
    [
        "0.0.0.0:7420",
        "[::]:7420",
        "192.0.2.7:1",
        "[2001:db8::1]:1",
        "device.branch:1",
        ":7420",
        "7420",
        "",
        "localhost",
    ],
)
def test_every_other_address_is_not(listen: str) -> None:
    assert not is_local(listen)


def test_listening_to_the_network_must_be_asked_for() -> None:
    with pytest.raises(ListensToNetwork, match="--allow-remote"):
        load("--listen", "0.0.0.0:7420").check_listen()
    load("--listen", "0.0.0.0:7420", "--allow-remote", "true").check_listen()


def test_the_same_holds_for_http() -> None:
    assert load().http == ""
    for local in ("127.0.0.1:8080", "[::1]:8080", "unix:/run/http.sock"):
        load("--http", local).check_listen()
    with pytest.raises(ListensToNetwork, match="--http"):
        load("--http", "0.0.0.0:8080").check_listen()
    load("--http", "0.0.0.0:8080", "--allow-remote", "true").check_listen()
    with pytest.raises(BadSettings, match="http: not an address"):
        load("--http", "8080")
    with pytest.raises(BadSettings, match="http_body_bytes"):
        load("--http-body-bytes", "7")


def test_every_setting_has_a_description() -> None:
    assert [name for name, field in DeviceSettings.model_fields.items() if not field.description] == []


def test_metrics_are_shown_to_this_machine_unless_more_is_asked_for() -> None:
    load("--metrics", "127.0.0.1:9101").check_listen()
    with pytest.raises(ListensToNetwork, match=r"on this machine only.*--metrics"):
        load("--metrics", "0.0.0.0:9101").check_listen()
    load("--metrics", "0.0.0.0:9101", "--allow-remote", "true").check_listen()


@pytest.mark.parametrize("address", ["9101", "unix:/tmp/metrics", "host:99999"])
def test_metrics_need_an_address_of_http(address: str) -> None:
    with pytest.raises(BadSettings):
        load("--metrics", address)
