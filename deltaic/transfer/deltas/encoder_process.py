"""Starting the process that makes a delta, and never leaving it behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deltaic.transfer.deltas.encoder import TOO_LARGE
from deltaic.transfer.errors import DeltaFailed, DeltaTooLarge

_MODULE = "deltaic.transfer.deltas.encoder"


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a process is to make. `jobs` 0 takes every core; a delta of more than `most_bytes` is not wanted."""

    source: Path
    target: Path
    folder: Path
    jobs: int
    most_bytes: int


async def run_encoder(order: Encoding) -> str:
    """The hex of the index; index and packs are then in the folder. Cancelling kills the process.

    Raises DeltaTooLarge, DeltaFailed with what the process said last.
    """
    async with _started(order) as process:
        said, complained = await asyncio.gather(_all_of(process.stdout), _all_of(process.stderr))
        status = await process.wait()
    if status == TOO_LARGE:
        raise DeltaTooLarge(f"a delta would have more than {order.most_bytes:,} bytes")
    if status != 0:
        words = complained.strip().splitlines() or [f"it ended with status {status}"]
        raise DeltaFailed(f"the process that makes a delta failed: {words[-1][:500]}")
    return said.strip()


async def _all_of(stream: asyncio.StreamReader | None) -> str:
    """The end of what is said, in bounded memory."""
    assert stream is not None
    tail = b""
    while block := await stream.read(4096):
        tail = (tail + block)[-8192:]
    return tail.decode(errors="replace")


@asynccontextmanager
async def _started(order: Encoding) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", _MODULE, str(order.source), str(order.target), str(order.folder)),
        *(str(order.jobs), str(order.most_bytes)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # its own workers are in its group and go with it
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        # Closed here: asyncio would leave the pipe to the garbage collector.
        if process.stdin is not None:
            process.stdin.close()
