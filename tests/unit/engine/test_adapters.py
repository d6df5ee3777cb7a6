"""Adapters of a served model: found in a folder, loaded with it, kept through restarts and switches."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deltaic.engine.adapters import adapters_in
from deltaic.engine.ending import Cause, Ending
from deltaic.engine.errors import BadAdapter, NotServed
from deltaic.engine.host import ModelHost
from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker_process import WorkerProcess
from deltaic.names import RevisionName

KEY = "models/tiny/channels/stable"
FIRST, SECOND = (RevisionName("tiny", "sha256:" + digit * 64) for digit in "12")


class Fleet:
    """Processes that load nothing, and what each was told."""

    def __init__(self) -> None:
        self.told: list[list[tuple[str, Path]]] = []
        self.refused: set[str] = set()
        self.endings: list[asyncio.Event] = []


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> Fleet:
    fleet, order = Fleet(), {}

    async def start(process: WorkerProcess) -> None:
        order[process] = len(fleet.told)
        fleet.told.append([])
        fleet.endings.append(asyncio.Event())

    async def wait(process: WorkerProcess) -> Ending:
        await fleet.endings[order[process]].wait()
        return Ending(Cause.DIED, "it was ended by SIGKILL")

    async def load(process: WorkerProcess, name: str, path: Path) -> None:
        if name in fleet.refused:
            raise BadAdapter(f"{name} is for another model")
        fleet.told[order[process]].append((name, path))

    async def unload(process: WorkerProcess, name: str) -> None:
        fleet.told[order[process]] = [each for each in fleet.told[order[process]] if each[0] != name]

    for name, stand_in in (("start", start), ("wait", wait), ("load_adapter", load), ("unload_adapter", unload)):
        monkeypatch.setattr(WorkerProcess, name, stand_in)
    monkeypatch.setattr(WorkerProcess, "stub", property(lambda _: None))
    return fleet


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapters"
    for file in ("tiny/formal.gguf", "tiny/medical.gguf", "tiny/-bad name.gguf", "tiny/notes.txt", "other/x.gguf"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(b"GGUF")
    return folder


@pytest.fixture
async def host(tmp_path: Path, folder: Path, fleet: Fleet) -> AsyncIterator[ModelHost]:
    settings = EngineSettings(drain_timeout=0)
    host = ModelHost(tmp_path / "run", settings, "edge@test", "edge", adapters=folder)
    yield host
    await host.close()


def test_a_folder_holds_adapters_by_model_and_name(folder: Path) -> None:
    assert adapters_in(folder, "tiny") == {name: folder / "tiny" / f"{name}.gguf" for name in ("formal", "medical")}
    assert adapters_in(folder, "unknown") == {}
    assert adapters_in(None, "tiny") == {}


async def test_a_model_is_served_with_the_adapters_of_its_folder(host: ModelHost, fleet: Fleet, folder: Path) -> None:
    await host.serve(KEY, FIRST, folder / "tiny.gguf")
    assert fleet.told == [[(name, folder / "tiny" / f"{name}.gguf") for name in ("formal", "medical")]]
    assert host.serving()[0].adapters == ("formal", "medical")


async def test_an_adapter_that_does_not_load_does_not_keep_its_model_from_answering(
    host: ModelHost, fleet: Fleet, folder: Path
) -> None:
    fleet.refused = {"formal"}
    await host.serve(KEY, FIRST, folder / "tiny.gguf")
    assert host.serving()[0].adapters == ("medical",)


async def test_adapters_come_back_after_a_restart_and_with_the_next_revision(
    host: ModelHost, fleet: Fleet, folder: Path
) -> None:
    extra = folder / "extra.gguf"
    await host.serve(KEY, FIRST, folder / "tiny.gguf")
    await host.load_adapter(KEY, "extra", extra)
    fleet.endings[0].set()
    async with asyncio.timeout(20):
        while len(fleet.told) < 2 or len(fleet.told[1]) < 3:
            await asyncio.sleep(0.01)
    assert sorted(fleet.told[1]) == sorted(fleet.told[0])
    await host.serve(KEY, SECOND, folder / "tiny.gguf")
    assert ("extra", extra) in fleet.told[2]
    assert host.serving()[0].adapters == ("extra", "formal", "medical")


async def test_an_adapter_that_was_unloaded_stays_away(host: ModelHost, fleet: Fleet, folder: Path) -> None:
    await host.serve(KEY, FIRST, folder / "tiny.gguf")
    await host.load_adapter(KEY, "extra", folder / "extra.gguf")
    await host.unload_adapter(KEY, "extra")
    assert host.serving()[0].adapters == ("formal", "medical")
    await host.serve(KEY, SECOND, folder / "tiny.gguf")
    assert host.serving()[0].adapters == ("formal", "medical")


async def test_an_adapter_is_for_what_is_served(host: ModelHost, folder: Path) -> None:
    with pytest.raises(NotServed):
        await host.load_adapter(KEY, "extra", folder / "extra.gguf")
