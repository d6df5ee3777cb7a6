"""Nodes as real processes on loopback."""

import asyncio
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from cli.fleet import is_serving
from deltaic.errors import DeltaicError, Unavailable

_START_SECONDS = 60.0
_UP = {"edge": "deltaic.v1.ContentService"}
"""Whose health says that a node is up: an edge as a whole serves only once a channel is answered."""
_STOP_SECONDS = 30.0


def _threads_each() -> int:
    """Four nodes share this machine: llama.cpp's threads wait by spinning, so more of them than cores is a crawl."""
    return max(1, (os.cpu_count() or 1) // 4)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(slots=True)
class Node:
    """One role in a process of its own, with its data and log below `folder`.

    `name` tells nodes of one role apart: it names the folder and the log, and the node itself says ROLE@NAME.
    """

    role: str
    folder: Path
    flags: tuple[str, ...] = ()
    name: str = ""
    port: int = field(default_factory=free_port)
    process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / f"{self._title}.log"

    @property
    def data(self) -> Path:
        return self.folder / self._title

    @property
    def called(self) -> str:
        """What it says of itself in an answer, where it was given a name."""
        return f"{self.role}@{self.name}" if self.name else ""

    @property
    def _title(self) -> str:
        return f"{self.role}-{self.name}" if self.name else self.role

    async def start(self) -> None:
        """Start, and wait until the node's health service says that it serves. Raises Unavailable."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("DELTAIC_")}
        common = ("--listen", self.address, "--data-dir", str(self.data), "--log-json", "true")
        shared = ("--engine.threads", str(_threads_each()), *(("--name", self.called) if self.name else ()))
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self.role, *common, *shared, *self.flags),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.returncode is None:
            try:
                if await is_serving(self.address, _UP.get(self.role, "")):
                    return
            except DeltaicError:
                await asyncio.sleep(0.1)
        raise Unavailable(f"the {self.role} did not start: {self.last_words()}", hint=f"its log is {self.log}")

    async def stop(self) -> int:
        """Ask it to stop, insist when it takes too long; the exit status, negative for a signal."""
        if self.process is None or self.process.returncode is not None:
            return self.process.returncode if self.process and self.process.returncode is not None else 0
        self.process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                return await self.process.wait()
        except TimeoutError:
            self.process.kill()
            return await self.process.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it said nothing"
