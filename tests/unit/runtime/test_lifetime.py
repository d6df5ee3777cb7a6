"""The life of a node's process: the signal, the order of the end, the one line that says why it could not start."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deltaic.errors import InvalidArgument, Unavailable
from deltaic.runtime.lifetime import run_node


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_in_order_and_well(number: signal.Signals) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        events.append("started")
        os.kill(os.getpid(), number)
        yield
        events.append("stopped")

    assert run_node("trial", running) == 0
    assert events == ["started", "stopped"]


def test_a_node_that_cannot_start_says_why_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        raise InvalidArgument("the port is taken", hint="choose another")
        yield

    assert run_node("trial", running) == 1
    assert capsys.readouterr().err == "deltaic trial: the port is taken; choose another\n"


def test_an_error_at_the_end_is_said_too(capsys: pytest.CaptureFixture[str]) -> None:
    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        os.kill(os.getpid(), signal.SIGTERM)
        yield
        raise Unavailable("the disk went away")

    assert run_node("trial", running) == 1
    assert capsys.readouterr().err == "deltaic trial: the disk went away\n"


def test_a_mistake_of_ours_is_not_dressed_up_as_advice() -> None:
    @asynccontextmanager
    async def running() -> AsyncIterator[None]:
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        run_node("trial", running)


SLOW_TO_STOP = """
import asyncio, sys
from contextlib import asynccontextmanager
from deltaic.runtime.lifetime import run_node
from deltaic.runtime.logs import configure_logs

configure_logs(json=True)

@asynccontextmanager
async def running():
    print("ready", flush=True)
    try:
        yield
    finally:
        print("stopping", flush=True)
        await asyncio.sleep(60)

sys.exit(run_node("trial", running))
"""


def test_a_second_signal_ends_the_process_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_STOP], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "stopping\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == -signal.SIGTERM
        finally:
            process.kill()
