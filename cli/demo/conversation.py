"""`deltaic chat` as a person uses it: a terminal, a question, Ctrl-C."""

import asyncio
import os
import pty
import signal
import sys
import time
from dataclasses import dataclass

import psutil

from cli.demo.processes import Node

_ANSWER_SECONDS = 30.0
_WATCH_SECONDS = 1.0
_BUSY_CORES = 0.1


@dataclass(frozen=True, slots=True)
class Talk:
    """What the terminal showed, and how busy the edge was (in cores) during the answer and after Ctrl-C."""

    transcript: str
    streamed: bool
    busy_before: float
    busy_after: float

    @property
    def stopped(self) -> bool:
        return self.busy_before > _BUSY_CORES and self.busy_after < 0.25 * self.busy_before


async def talk_and_interrupt(edge: Node, model: str) -> Talk:
    """Ask for something long, watch it stream, press Ctrl-C, watch the server fall silent, leave.

    Greedy, so that the story is the same each time and does not end by itself before Ctrl-C comes.
    """
    ours, theirs = pty.openpty()
    arguments = ("chat", model, "--node", edge.address, "--max-tokens", "1500", "--temperature", "0")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli", *arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=_hear_interrupts,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        await _read_until(ours, "> ")
        os.write(ours, b"Write a very long story about the sea, a ship and its crew.\n")
        story = await _read_until(ours, "", at_least=200)
        busy_before = await _busy_cores(edge)
        process.send_signal(signal.SIGINT)
        story += await _read_until(ours, "stopped")
        busy_after = await _busy_cores(edge)
        os.write(ours, b"\x04")
        async with asyncio.timeout(_ANSWER_SECONDS):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        os.close(ours)
    return Talk(" ".join(story.split())[:120], len(story) > 200 and "stopped" in story, busy_before, busy_after)


def _hear_interrupts() -> None:
    """A demo that runs in the background of a shell has SIGINT ignored; a person's terminal has not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


async def _read_until(terminal: int, ending: str, *, at_least: int = 0) -> str:
    """Read what the terminal shows until `ending` has come and `at_least` characters, or time is up."""
    shown, deadline = "", time.monotonic() + _ANSWER_SECONDS
    while time.monotonic() < deadline and (len(shown) < at_least or ending not in shown):
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except BlockingIOError:
            await asyncio.sleep(0.02)
        except OSError:  # the other side has closed the terminal
            break
    return shown


async def _busy_cores(edge: Node) -> float:
    """Cores that the edge and its workers keep busy over the next second."""
    assert edge.process is not None
    top = psutil.Process(edge.process.pid)
    family = [top, *top.children(recursive=True)]
    before = sum(_seconds(process) for process in family)
    await asyncio.sleep(_WATCH_SECONDS)
    return (sum(_seconds(process) for process in family) - before) / _WATCH_SECONDS


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
