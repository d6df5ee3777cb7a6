"""The decision log: chained, durable, free of content, and an error when it cannot be written."""

import asyncio
import errno
import json
import os
from pathlib import Path

import pytest

from deltaic.trust.audit import verify
from deltaic.trust.errors import ChainBroken
from device import decision_log
from device.decision_log import KEPT, SENT, DecisionLog, read_decisions
from device.errors import DecisionLogFailed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "egress.jsonl"


def content(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


async def record(log: DecisionLog, action: str = KEPT, **details: str) -> None:
    await log.record(action, actor="teller", resource="models/m/channels/stable", details=details)


async def test_entries_are_chained_in_the_order_of_the_decisions(path: Path) -> None:
    log = DecisionLog(path, now_us=lambda: 1_700_000_000_000_000)
    await record(log, KEPT, reason="UNLABELLED")
    await record(log, SENT, bytes="41")
    log.close()
    first, second = read_decisions(path)
    assert verify([first, second]) == 2
    assert (first.sequence, first.action, dict(first.details)) == (1, "EGRESS_KEPT", {"reason": "UNLABELLED"})
    assert (second.sequence, second.action, second.time_us) == (2, "EGRESS_SENT", 1_700_000_000_000_000)


async def test_the_chain_goes_on_after_a_restart(path: Path) -> None:
    for _ in range(3):
        log = DecisionLog(path)
        await record(log)
        log.close()
    assert verify(read_decisions(path)) == 3


async def test_an_entry_is_durable_before_the_call_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(decision_log.os, "write", lambda fd, data: events.append("write") or write(fd, data))
    monkeypatch.setattr(decision_log.os, "fsync", lambda fd: events.append("fsync") or fsync(fd))
    log = DecisionLog(path)
    await record(log)
    assert events[-2:] == ["write", "fsync"]
    log.close()


@pytest.mark.parametrize("cut", [1, 20, 200])
async def test_a_line_that_a_crash_cut_short_is_removed(path: Path, cut: int) -> None:
    log = DecisionLog(path)
    await record(log)
    await record(log)
    log.close()
    put(path, content(path)[:-cut])
    log = DecisionLog(path)
    await record(log, SENT)
    log.close()
    entries = list(read_decisions(path))
    assert verify(entries) == 2
    assert entries[-1].action == SENT


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace("teller", "others"),
        lambda _: "not json\n",
        lambda _: "[]\n",
        lambda _: '{"sequence": 1}\n',
        lambda line: json.dumps(json.loads(line) | {"hash": "zz"}) + "\n",
        lambda line: json.dumps(json.loads(line) | {"sequence": -1}) + "\n",
        lambda line: json.dumps(json.loads(line) | {"time_us": 1 << 63}) + "\n",
        lambda line: json.dumps(json.loads(line) | {"sequence": float("inf")}) + "\n",
        lambda line: json.dumps(json.loads(line) | {"actor": "\ud800"}) + "\n",
        lambda _: "[" * 10_000 + "\n",
    ],
)
async def test_a_damaged_end_refuses_further_entries(path: Path, damage: object) -> None:
    log = DecisionLog(path)
    await record(log)
    log.close()
    assert callable(damage)
    put(path, damage(content(path).decode()).encode())
    before = content(path)
    with pytest.raises(DecisionLogFailed, match=r"egress\.jsonl"):
        await record(log, SENT)
    assert content(path) == before


async def test_an_entry_changed_in_the_middle_is_found_by_an_auditor(path: Path) -> None:
    log = DecisionLog(path)
    for _ in range(3):
        await record(log)
    log.close()
    lines = content(path).splitlines(keepends=True)
    lines[1] = lines[1].replace(b"teller", b"others")
    put(path, b"".join(lines))
    with pytest.raises(ChainBroken, match="entry 2 was changed"):
        verify(read_decisions(path))


async def test_a_full_disk_leaves_no_part_of_a_line_and_the_log_works_again_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog(path)
    await record(log)
    whole = content(path)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(decision_log.os, "write", full)
        with pytest.raises(DecisionLogFailed, match="No space left"):
            await record(log, SENT)
    assert content(path) == whole
    await record(log, SENT)
    log.close()
    assert verify(read_decisions(path)) == 2


async def test_an_entry_that_could_not_be_made_durable_is_not_in_the_log(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = DecisionLog(path)
    await record(log)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(decision_log.os, "fsync", fail)
        with pytest.raises(DecisionLogFailed):
            await record(log, SENT)
    await record(log, KEPT)
    log.close()
    assert [entry.action for entry in read_decisions(path)] == [KEPT, KEPT]


async def test_a_folder_that_is_not_there_is_an_error_with_advice(tmp_path: Path) -> None:
    with pytest.raises(DecisionLogFailed) as caught:
        await record(DecisionLog(tmp_path / "absent" / "egress.jsonl"))
    assert "nothing leaves this device" in str(caught.value)


async def test_many_decisions_at_once_make_one_chain(path: Path) -> None:
    log = DecisionLog(path)
    await asyncio.gather(*(record(log, SENT, bytes=str(size)) for size in range(40)))
    log.close()
    assert verify(read_decisions(path)) == 40


def test_only_the_owner_may_read_the_log(path: Path) -> None:
    log = DecisionLog(path)
    asyncio.run(record(log))
    log.close()
    assert path.stat().st_mode & 0o077 == 0
