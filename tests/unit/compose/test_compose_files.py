"""Containers: everything that compose.yaml and the Dockerfile name exists in the code."""

import json
import re
import shlex
from pathlib import Path, PurePosixPath

import pytest
import typer
import yaml

from center.config import CenterSettings
from cli.__main__ import app_for
from device.config import DeviceSettings
from edge.config import EdgeSettings

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = yaml.safe_load((ROOT / "compose" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
ROLES = {"center": CenterSettings, "edge": EdgeSettings, "device": DeviceSettings}
COMMANDS = set(typer.main.get_command(app_for(())).commands)


def _stages(text):
    """The instructions of each stage of a Dockerfile, by the name of the stage."""
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    stages = {}
    for line in filter(None, joined.splitlines()):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            current = stages[name] = [("FROM", base)]
        else:
            current.append((instruction, rest))
    return stages


STAGES = _stages((ROOT / "compose" / "Dockerfile").read_text())


def _only(stage, instruction):
    found = [rest for name, rest in STAGES[stage] if name == instruction]
    assert len(found) == 1, f"{stage} has {len(found)} {instruction}"
    return found[0]


def _port(address):
    return int(address.rpartition(":")[2])


@pytest.fixture
def settings_of(monkeypatch):
    """What a role reads from the environment that compose gives it."""

    def load(role):
        for name, value in SERVICES[role]["environment"].items():
            monkeypatch.setenv(name, value)
        return ROLES[role].load([], prog=f"deltaic {role}")

    return load


def test_the_fleet_is_a_center_an_edge_a_device_and_an_index():
    assert set(SERVICES) == {*ROLES, "redis"}


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_is_a_setting_of_its_role(role, settings_of):
    names = {f"DELTAIC_{role.upper()}_{field.upper()}" for field in ROLES[role].model_fields}
    assert set(SERVICES[role]["environment"]) <= names
    assert settings_of(role).name == role


@pytest.mark.parametrize("role", ROLES)
def test_a_node_listens_for_other_containers_on_its_default_port(role, settings_of):
    default = _port(ROLES[role].model_fields["listen"].default)
    assert settings_of(role).listen == f"0.0.0.0:{default}"
    assert int(_only(role, "EXPOSE").split()[0]) == default


@pytest.mark.parametrize("role", ROLES)
def test_ports_are_published_on_the_loopback_of_the_host_only(role, settings_of):
    settings = settings_of(role)
    ports = [_port(address) for address in (settings.listen, settings.http) if address]
    assert SERVICES[role]["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
    assert [int(port) for port in _only(role, "EXPOSE").split()] == ports


def test_edge_and_device_speak_http_each_on_a_port_of_its_own(settings_of):
    ports = {_port(settings_of(role).http) for role in ("edge", "device")}
    assert len(ports) == 2


def test_a_device_is_told_that_it_may_listen_to_the_network(settings_of):
    settings = settings_of("device")
    settings.check_listen()
    assert settings.allow_remote


def test_nodes_find_each_other_by_the_names_of_the_services(settings_of):
    edge, device = settings_of("edge"), settings_of("device")
    assert edge.center == f"center:{_port(settings_of('center').listen)}"
    assert device.upstream == f"edge:{_port(edge.listen)}"
    assert re.fullmatch(r"redis://redis:6379/\d+", edge.index_url)


def test_edge_and_device_follow_the_same_channel(settings_of):
    assert settings_of("edge").channels == settings_of("device").channels == ["models/assistant/channels/stable"]


def test_nodes_share_a_network_with_the_node_that_they_follow_and_devices_only_with_their_edge():
    networks = {name: set(service["networks"]) for name, service in SERVICES.items()}
    assert networks["edge"] & networks["center"]
    assert networks["edge"] & networks["redis"]
    assert networks["device"] & networks["edge"]
    assert not networks["device"] & networks["center"]
    assert set.union(*networks.values()) == set(COMPOSE["networks"])


@pytest.mark.parametrize("role", ROLES)
def test_files_are_kept_in_a_volume_that_the_user_of_the_image_owns(role, settings_of):
    volume, _, folder = SERVICES[role]["volumes"][0].partition(":")
    assert volume in COMPOSE["volumes"]
    assert settings_of(role).data_dir == Path(folder)
    assert f"--create-home --home-dir {folder} " in " ".join(rest for _, rest in STAGES["node"])
    assert ("USER", "deltaic") in STAGES["node"]


@pytest.mark.parametrize("role", ROLES)
def test_the_image_of_a_role_runs_the_command_of_that_role(role):
    build = SERVICES[role]["build"]
    assert (ROOT / "compose" / build["context"] / build["dockerfile"]).resolve() == ROOT / "compose" / "Dockerfile"
    assert build["target"] == role
    assert json.loads(_only(role, "ENTRYPOINT")) == ["deltaic", role]
    assert role in COMMANDS


@pytest.mark.parametrize("role", ROLES)
def test_health_is_asked_with_a_command_that_exists_at_the_port_of_the_role(role, settings_of):
    asked = ["deltaic", "health", f"127.0.0.1:{_port(settings_of(role).listen)}"]
    if role == "edge":  # as a whole it serves once a channel is answered; its process is well before
        asked += ["--service", "deltaic.v1.ContentService"]
    assert SERVICES[role]["healthcheck"]["test"] == ["CMD", *asked]
    assert json.loads(_only(role, "HEALTHCHECK").partition(" CMD ")[2]) == asked
    assert "health" in COMMANDS


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "depends_on" in service])
def test_what_a_service_waits_for_can_become_healthy(name):
    for other, how in SERVICES[name]["depends_on"].items():
        assert how == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[other]


def test_running_answers_may_finish_before_a_node_is_killed(settings_of):
    longest = max(settings_of(role).engine.drain_timeout for role in ROLES)
    for role in ROLES:
        assert int(SERVICES[role]["stop_grace_period"].removesuffix("s")) > longest


def test_the_readme_says_how_long_running_answers_have(settings_of):
    seconds = {role: getattr(settings_of(role), "grace" if role == "center" else "drain_seconds") for role in ROLES}
    assert seconds["edge"] == seconds["device"]
    said = f"running answers have {seconds['edge']:g} seconds, {seconds['center']:g} at the center"
    assert said in (ROOT / "compose" / "README.md").read_text()


def _copied():
    return [source for instruction, rest in STAGES["builder"] if instruction == "COPY" for source in rest.split()[:-1]]


def test_everything_that_is_copied_exists():
    assert [source for source in _copied() if not (ROOT / source).exists()] == []


def test_everything_that_is_copied_reaches_the_builder():
    rules = (ROOT / "compose" / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert "*" in rules
    assert [source for source in _copied() if PurePosixPath(source).parts[0] not in allowed] == []


def test_every_package_of_the_project_is_in_the_image():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == {"deltaic", *ROLES, "cli"}
    assert packages <= set(_copied())


def test_scripts_that_the_build_runs_are_copied_before():
    for script in re.findall(r"python (tools/\S+\.py)", " ".join(rest for _, rest in STAGES["builder"])):
        assert script in _copied()


def test_every_stage_is_built_on_an_image_of_the_python_that_the_project_supports():
    for stage in STAGES.values():
        assert stage[0][1] in {"python:3.11-slim-bookworm", "node"}


README_COMMANDS = re.findall(
    r"^    \.venv/bin/deltaic (.+)$", (ROOT / "compose" / "README.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize("line", README_COMMANDS)
def test_every_command_in_the_readme_is_understood(line):
    name, *arguments = shlex.split(line)
    command = typer.main.get_command(app_for(())).commands[name]
    assert command.make_context(name, arguments).params


def test_the_readme_shows_how_to_publish_and_to_ask():
    assert {line.split()[0] for line in README_COMMANDS} == {"publish", "ask"}
