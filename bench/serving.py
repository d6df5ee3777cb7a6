"""Programs that serve while others are measured: nginx, a content node, a line that is cut."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import REPOSITORY, BenchFailed, program

_START_SECONDS = 20.0
_NGINX = """\
{user}daemon off;
worker_processes auto;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
    sendfile on;
    tcp_nopush on;
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address};
        root {root};
    }}
}}
"""


class Serving:
    """A program that runs; `port` of 127.0.0.1 is where it listens."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process = process
        self.port = port
        self.said = ""
        """What it printed after its port, once it has ended."""

    def peak_rss_bytes(self) -> int:
        """The most memory that it has held so far."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
        raise BenchFailed("the serving process has ended")

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self._process.terminate()
        self.said, _ = self._process.communicate(timeout=_START_SECONDS)


@contextmanager
def bench_program(name: str, *arguments: str | Path) -> Iterator[Serving]:
    """A program of this folder whose first line is its port."""
    command = [sys.executable, REPOSITORY / "bench" / name, *arguments]
    with _running([str(word) for word in command]) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port.isdigit():
            raise BenchFailed(f"{name} did not start: see above")
        serving = Serving(process, int(port))
        yield serving
        serving.stop()


@contextmanager
def nginx(root: Path, folder: Path) -> Iterator[str]:
    """The address at which nginx serves the files in `root` with sendfile; its own files are in `folder`."""
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""  # else its workers may not read what only root may
    config.write_text(_NGINX.format(user=user, folder=folder, root=root, address=f"127.0.0.1:{port}"))
    command = [program("nginx"), "-p", str(folder), "-c", str(config), "-e", str(folder / "nginx.log")]
    with _running(command) as process:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.communicate(timeout=_START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _wait_for(port: int, process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < ends:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise BenchFailed(f"nginx does not listen on port {port}: see above")
