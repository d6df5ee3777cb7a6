"""Readiness, reload, delivery: the parts of the desk, without an edge around them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deltaic.errors import Unavailable
from deltaic.names import ChannelName
from deltaic.rpc.channel import open_channel
from deltaic.rpc.server import Server
from deltaic.runtime.settings import BadSettings
from deltaic.v1 import audit_pb2, audit_pb2_grpc
from edge.config import EdgeSettings
from edge.operation.health import readiness
from edge.operation.reload import Reload
from edge.spool.delivery import Delivery
from edge.spool.journal import Journal
from edge.spool.spool import Spool

ONE, TWO = ChannelName("a", "stable"), ChannelName("b", "stable")


@pytest.mark.parametrize(
    ("followed", "answered", "facts", "serving"),
    [
        ((), (), {}, True),
        ((ONE, TWO), (), {}, False),
        ((ONE, TWO), (TWO,), {}, True),
        ((ONE,), (ONE,), {"draining": True}, False),
        ((), (), {"stopping": True}, False),
    ],
)
def test_requests_come_where_something_is_answered_and_nobody_drains(
    followed: tuple[ChannelName, ...], answered: tuple[ChannelName, ...], facts: dict[str, bool], serving: bool
) -> None:
    values = {"draining": False, "stopping": False} | facts
    said = readiness(followed, lambda key: key in map(str, answered), **values)
    assert said.serving is serving
    assert said.body()["status"] == ("ok" if serving else "not serving")
    assert bool(said.reasons) is not serving


class Reloading:
    """A reload whose appliers remember what they were given."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "edge.toml"
        self.write("")
        self.settings = EdgeSettings.load(["--config", str(self.file)], prog="deltaic edge")
        self.applied: list[str] = []
        self.recorded: list[str] = []
        self.reload = Reload(
            self.settings,
            self.settings.again,
            {name: self._apply(name) for name in ("peers", "hot_bytes")},
            self._record,
        )

    def write(self, text: str) -> None:
        self.file.write_text(text)

    def _apply(self, name: str) -> Any:
        async def apply(settings: EdgeSettings) -> None:
            self.applied.append(f"{name}={getattr(settings, name)}")

        return apply

    async def _record(self, action: str, _resource: str, **details: str) -> None:
        self.recorded.append(f"{action} {details['applied']}")


async def test_what_can_change_does_and_the_rest_is_named(tmp_path: Path) -> None:
    it = Reloading(tmp_path)
    it.write('peers = ["h:1"]\nbranch = "x"\n[engine]\nslots = 9\n')
    done = await it.reload.reload()
    assert done.applied == ("peers",)
    assert set(done.need_restart) == {"branch", "engine"}
    assert it.applied == ["peers=['h:1']"]
    assert it.recorded == ["EDGE_RELOADED peers"]
    again = await it.reload.reload()
    assert (again.applied, set(again.need_restart)) == ((), {"branch", "engine"})
    it.write("")
    assert (await it.reload.reload()).applied == ("peers",)


@pytest.mark.parametrize(
    "wrong", ["peers = [", "colour = 1\n", "hot_bytes = -1\n", 'peers = ["h:1"]\ndelta_jobs = "x"\n']
)
async def test_a_wrong_file_changes_nothing_and_a_signal_survives_it(tmp_path: Path, wrong: str) -> None:
    it = Reloading(tmp_path)
    it.write(wrong)
    with pytest.raises(BadSettings):
        await it.reload.reload()
    await it.reload.signalled()
    assert it.applied == it.recorded == []


async def test_a_file_that_is_gone_is_said(tmp_path: Path) -> None:
    it = Reloading(tmp_path)
    it.file.unlink()
    with pytest.raises(BadSettings, match="no settings file"):
        await it.reload.reload()


def test_settings_that_a_program_made_cannot_be_read_again() -> None:
    with pytest.raises(BadSettings, match="made by a program"):
        EdgeSettings(log_level="info").again()


class Center(audit_pb2_grpc.AuditServiceServicer):
    """Takes entries as the real one does, and sometimes loses its answer."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.calls = 0
        self.fails: Callable[[int], bool] = lambda _call: False

    async def Append(self, request: audit_pb2.AppendRequest, _context: Any) -> audit_pb2.AppendResponse:
        self.calls += 1
        last = self.taken[-1] if self.taken else 0
        self.taken += [entry.sequence for entry in request.entries if entry.sequence > last]
        if self.fails(self.calls):
            raise Unavailable("the answer is lost")
        return audit_pb2.AppendResponse(last_sequence=self.taken[-1])


@asynccontextmanager
async def delivering(folder: Path, center: Center) -> AsyncIterator[Journal]:
    server = Server("127.0.0.1:0")
    server.add(audit_pb2_grpc.add_AuditServiceServicer_to_server, center, "deltaic.v1.AuditService")
    journal = Journal(Spool(folder, 1 << 20))
    async with (
        server.running(grace=0),
        open_channel(f"127.0.0.1:{server.port}", node="edge@test") as channel,
        journal.running(),
    ):
        task = asyncio.create_task(Delivery(channel, "center", "edge@test", journal, lambda: 0.0).run())
        yield journal
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_entries_arrive_in_order_each_once_although_answers_are_lost(tmp_path: Path) -> None:
    center = Center()
    center.fails = lambda call: call <= 4
    async with delivering(tmp_path, center) as journal:
        for number in range(20):
            await journal.record("EDGE_LOADED", f"r{number}")
        await until(lambda: journal.spool.entries == 0)
    assert center.taken == list(range(1, 21))
    assert center.calls > 4


async def test_what_is_recorded_is_on_the_disk_when_it_returns(tmp_path: Path) -> None:
    journal = Journal(Spool(tmp_path, 1 << 20))
    async with journal.running():
        await journal.record("EDGE_DRAINED", "requests")
        batch = Spool(tmp_path, 1 << 20).read()
        assert batch is not None
        assert [entry.action for entry in batch.entries] == ["EDGE_DRAINED"]
        journal.note("EDGE_LOADED", "r")
    batch = Spool(tmp_path, 1 << 20).read()
    assert batch is not None
    assert [entry.action for entry in batch.entries] == ["EDGE_DRAINED", "EDGE_LOADED"]


_WRITER = """
import sys
from pathlib import Path
from edge.spool.spool import Draft, Spool
spool = Spool(Path(sys.argv[1]), 1 << 22)
while True:
    spool.append([Draft("EDGE_LOADED", "r" * 300), Draft("EDGE_EVICTED", "r")])
    print(spool.last, flush=True)
"""


def test_killed_at_any_instant_it_has_every_entry_that_it_said_was_durable(tmp_path: Path) -> None:
    """Each round kills a writer after another number of its acknowledged writes, and the next goes on."""
    acknowledged = 0
    for writes in (1, 7, 2, 40, 13):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(writes):
                last = int(writer.stdout.readline())
                assert last > acknowledged, "no number is given twice"
                acknowledged = last
            os.kill(writer.pid, signal.SIGKILL)
        spool = Spool(tmp_path, 1 << 22)
        found: list[int] = []
        spool.delivered = 0
        while (batch := spool.read()) is not None:
            found += [entry.sequence for entry in batch.entries]
            spool.delivered = found[-1]
        assert found == list(range(1, len(found) + 1))
        assert len(found) >= acknowledged
        spool.close()
