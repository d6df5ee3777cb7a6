"""A command that is asked to end stops what it has started first."""

import signal
import subprocess
import sys

import pytest

_COMMAND = """
import asyncio, sys, typer
from cli.connection import run

async def work():
    try:
        print("works", flush=True)
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0)
        print("tidied", flush=True)

try:
    run(work())
except typer.Exit as end:
    sys.exit(end.exit_code)
"""


@pytest.mark.parametrize(
    ("number", "status", "words"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_lets_a_command_tidy_up_and_is_its_exit_status(number, status, words):
    arguments = [sys.executable, "-c", _COMMAND]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "works\n"
        process.send_signal(number)
        said, complained = process.communicate(timeout=30)
    assert (process.returncode, said, complained) == (status, "tidied\n", f"{words}\n")
