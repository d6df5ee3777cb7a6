"""Settings: flags before environment before file before default, and one clear line for what is wrong."""

import os
from pathlib import Path

import pytest
from pydantic import BaseModel, ByteSize, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from deltaic.errors import Code
from deltaic.runtime.setting_words import Words
from deltaic.runtime.settings import BadSettings, NodeSettings, default_data_dir


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: int = Field(4, ge=1, description="How many.")
    depth: int = Field(2, description="How deep.")


class Settings(NodeSettings):
    """Try settings."""

    model_config = SettingsConfigDict(env_prefix="TRIAL_")

    listen: str = Field("127.0.0.1:1", description="Where to listen.")
    channels: Words = Field(default_factory=list, description="What to follow.")
    regions: Words = Field(default_factory=lambda: ["CN", "US"], description="Where.")
    room: ByteSize = Field(ByteSize(4 << 30), description="How large, 100 % at most.")
    part: Part = Field(default_factory=Part, description="A part.")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TRIAL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "trial.toml"
    path.write_text('listen = "from-file:1"\nchannels = ["file/a", "file/b"]\n[part]\nslots = 7\ndepth = 9\n')
    return path


def load(*flags: str) -> Settings:
    return Settings.load(flags, prog="deltaic trial")


def refused(*flags: str) -> str:
    with pytest.raises(BadSettings) as caught:
        load(*flags)
    assert caught.value.code is Code.INVALID_ARGUMENT
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ["Zürich", "two\nlines", "a" * 256])
def test_a_name_that_no_header_carries_is_refused(name: str) -> None:
    """Every call of the node would fail for it."""
    assert "printable ASCII" in refused("--name", name)
    assert load("--name", "branch 7").name == "branch 7"


def test_nothing_said_is_the_default() -> None:
    settings = load()
    assert (settings.listen, settings.channels, settings.part.slots, settings.name) == ("127.0.0.1:1", [], 4, "")


def test_the_file_goes_before_the_default(file: Path) -> None:
    settings = load("--config", str(file))
    assert (settings.listen, settings.channels) == ("from-file:1", ["file/a", "file/b"])
    assert (settings.part.slots, settings.part.depth) == (7, 9)


def test_the_environment_goes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAL_LISTEN", "from-env:1")
    monkeypatch.setenv("TRIAL_PART__SLOTS", "8")
    settings = load("--config", str(file))
    assert settings.listen == "from-env:1"
    assert (settings.part.slots, settings.part.depth) == (8, 9), "the rest of the part is still the file's"


def test_a_flag_goes_before_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAL_LISTEN", "from-env:1")
    monkeypatch.setenv("TRIAL_PART__SLOTS", "8")
    settings = load("--config", str(file), "--listen", "from-flag:1", "--part.slots", "9")
    assert settings.listen == "from-flag:1"
    assert (settings.part.slots, settings.part.depth) == (9, 9)


@pytest.mark.parametrize(
    "flags",
    [
        ("--channels", "m/stable", "--channels", "n/stable"),
        ("--channels", "m/stable,n/stable"),
        ("--channels", "m/stable, n/stable,"),
        ("--channels", '["m/stable", "n/stable"]'),
    ],
)
def test_a_list_may_be_repeated_flags_or_have_commas(flags: tuple[str, ...]) -> None:
    assert load(*flags).channels == ["m/stable", "n/stable"]


@pytest.mark.parametrize("value", ["m/stable,n/stable", " m/stable , n/stable ", '["m/stable", "n/stable"]'])
def test_a_list_in_a_variable_has_commas_or_is_json(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TRIAL_CHANNELS", value)
    assert load().channels == ["m/stable", "n/stable"]


@pytest.mark.parametrize("value", ['["m/stable", "n/stable"]', '"m/stable,n/stable"', '["m/stable,n/stable"]'])
def test_a_list_in_a_file_is_an_array_or_has_commas(tmp_path: Path, value: str) -> None:
    path = tmp_path / "list.toml"
    path.write_text(f"channels = {value}\n")
    assert load("--config", str(path)).channels == ["m/stable", "n/stable"]


def test_an_empty_variable_is_an_empty_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAL_REGIONS", "")
    assert load().regions == []


@pytest.mark.parametrize("spelling", [["--config", "{}"], ["--config={}"]])
def test_the_file_may_be_named_in_both_spellings(file: Path, spelling: list[str]) -> None:
    assert load(*(part.format(file) for part in spelling)).listen == "from-file:1"


def test_the_environment_may_name_the_file_and_a_flag_another(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIAL_CONFIG", str(file))
    assert load().listen == "from-file:1"
    other = tmp_path / "other.toml"
    other.write_text('listen = "from-other:1"\n')
    assert load("--config", str(other)).listen == "from-other:1"


def test_one_load_leaves_nothing_behind_for_the_next(file: Path) -> None:
    assert load("--config", str(file)).listen == "from-file:1"
    assert load().listen == "127.0.0.1:1"


def test_a_file_that_is_not_there_is_named() -> None:
    assert "/nowhere/x.toml" in refused("--config", "/nowhere/x.toml")


@pytest.mark.parametrize("flags", [("--config",), ("--config=",)])
def test_a_file_must_have_a_name(flags: tuple[str, ...]) -> None:
    assert "--config" in refused(*flags)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("listen = ", "bad.toml"),
        ("lisen = 'x'", "lisen"),
        ("[part]\nslotz = 1", "slotz"),
        ("[part]\nslots = 0", "part.slots"),
        ("[part]\nslots = 'many'", "part.slots"),
        ("channels = 7", "channels"),
        ("channels = [7]", "channels"),
        ("lisen = 'x'", "no such setting"),
        ("room = 'wide'", "room: write a number of bytes, like 4GiB"),
        ("log_level = 'loud'", "log_level"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, content: str, named: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(content)
    assert named in refused("--config", str(path))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(b"\xff\xfe\x00listen")
    assert "bad.toml" in refused("--config", str(path))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--part.slots", "0"), "part.slots"),
        (("--part.slots", "many"), "part.slots"),
        (("--log-level", "loud"), "log"),
        (("--unknown", "1"), "unknown"),
        (("--listen",), "listen"),
        (("stray",), "stray"),
    ],
)
def test_what_is_wrong_with_a_flag_is_named(flags: tuple[str, ...], named: str) -> None:
    text = refused(*flags)
    assert named in text
    assert "deltaic trial --help" in text


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        ("TRIAL_PART__SLOTS", "many", "slots"),
        ("TRIAL_CHANNELS", '["m/stable"', "channels: write words with commas"),
        ("TRIAL_ROOM", "4 elephants", "room: write a number of bytes, like 4GiB"),
        ("TRIAL_FROB", "0", "the variable TRIAL_FROB is no setting"),
        ("trial_frob", "0", "trial_frob"),
        ("TRIAL_PART_SLOTS", "1", "is TRIAL_PART__SLOTS meant?"),
        ("TRIAL_PART__SLOTZ", "1", "part.slotz: there is no such setting"),
        ("TRIAL_LISTEN__X", "1", "TRIAL_LISTEN__X"),
        ("TRIAL_LOG_LEVEL", "x", "log"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, named: str
) -> None:
    monkeypatch.setenv(name, value)
    assert named in refused()


def test_variables_of_others_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN", "x:1")
    monkeypatch.setenv("PART__SLOTS", "99")
    assert (load().listen, load().part.slots) == ("127.0.0.1:1", 4)


def test_variables_that_kubernetes_sets_for_a_service_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_1_TCP", "PORT_1_TCP_ADDR"):
        monkeypatch.setenv(f"TRIAL_{name}", "10.0.0.1")
    assert load().listen == "127.0.0.1:1"


def test_no_message_tells_how_it_came_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIAL_CHANNELS", "[")
    assert "Value error" not in refused()
    assert "Value error" not in refused("--channels", "x", "--name", "Zürich")


def test_help_shows_defaults_as_they_would_be_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("--help")
    text = " ".join(capsys.readouterr().out.split())
    for told in ("What to follow. (default: none)", "Where. (default: CN,US)", "How many. (default: 4)"):
        assert told in text
    assert "How large, 100 % at most. (default: 4GiB)" in text
    assert "by default ROLE@HOST. --log-level" in text
    assert "factory" not in text


def test_help_teaches_every_flag_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for word in ("deltaic trial", "--listen", "Where to listen.", "--part.slots", "How many.", "--log-level"):
        assert word in text


def test_help_teaches_the_settings_file(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("--help")
    assert "--config" in capsys.readouterr().out


def test_files_of_a_node_rest_where_the_desktop_standard_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/somewhere")
    assert default_data_dir("edge") == Path("/somewhere/deltaic/edge")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_data_dir("edge") == Path.home() / ".local/share/deltaic/edge"
