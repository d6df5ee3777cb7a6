"""The commented settings files: they load, show every field, and say the defaults."""

import re
import tomllib
from pathlib import Path

import pytest

from center.config import CenterSettings
from device.config import DeviceSettings
from edge.config import EdgeSettings

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "settings"
ROLES = {"center": CenterSettings, "edge": EdgeSettings, "device": DeviceSettings}


def _load(role, path):
    return ROLES[role].load(["--config", str(path)], prog=f"deltaic {role}")


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_every_role_has_a_file():
    assert {path.stem for path in FOLDER.glob("*.toml")} == set(ROLES)


@pytest.mark.parametrize("role", ROLES)
def test_the_file_loads_as_it_is(role):
    written = tomllib.loads((FOLDER / f"{role}.toml").read_text())
    loaded = _load(role, FOLDER / f"{role}.toml").model_dump()
    assert written
    assert set(written) <= set(loaded)


@pytest.mark.parametrize("role", ROLES)
def test_the_file_loads_with_every_commented_setting_switched_on(role, tmp_path):
    everything = tmp_path / f"{role}.toml"
    text = (FOLDER / f"{role}.toml").read_text()
    everything.write_text(re.sub(r"^#(\w+ = |\[)", r"\1", text, flags=re.MULTILINE))
    shown = tomllib.loads(everything.read_text())
    _load(role, everything)
    assert set(shown) == set(ROLES[role].model_fields)
    assert set(shown["engine"]) == set(ROLES[role].model_fields["engine"].annotation.model_fields)


def _shown_default(model, line):
    """The value that a commented line sets, and the default of its field."""
    name = line.partition(" ")[0]
    return getattr(model, name), type(model).model_fields[name].get_default(call_default_factory=True)


@pytest.mark.parametrize("role", ROLES)
def test_a_commented_setting_shows_its_default(role, tmp_path):
    node, _, engine = (FOLDER / f"{role}.toml").read_text().partition("[engine]")
    one = tmp_path / "one.toml"
    for part, table in ((node, ""), (engine, "[engine]\n")):
        # The default of a folder depends on the user, and TOML has no word for "by default only when".
        for line in re.findall(r"^#((?!data_dir|log_json|adapters|index_ca)\w+ = .+)$", part, re.MULTILINE):
            one.write_text(table + line)
            settings = _load(role, one)
            shown, default = _shown_default(settings.engine if table else settings, line)
            assert shown == default, line
