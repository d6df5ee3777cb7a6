"""The sides of the engine bench: each is a child process that answers with the same model file, alone."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine_transports import Grpc, OpenAI, Transport
from serving import Serving, bench_program

OURS = "ours"
LLAMA_SERVER = "llama-server"
PYTHON_SERVER = "llama_cpp.server"
_QUEUE = 256


@dataclass(frozen=True, slots=True)
class Setup:
    """What is the same for every side."""

    model: Path
    threads: int
    gpu_layers: int
    slots: int
    context: int
    """Tokens of one slot."""


@dataclass(frozen=True, slots=True)
class Running:
    """A side that answers."""

    name: str
    backend: str
    """Instruction sets or devices, in its own words."""
    fronts: dict[str, Callable[[], Transport]]
    """Ways to ask it, by name, the usual one first; make a transport inside the loop that uses it."""

    @property
    def usual(self) -> str:
        return next(iter(self.fronts))

    def transport(self, front: str = "") -> Transport:
        return self.fronts[front or self.usual]()


@contextmanager
def ours(setup: Setup) -> Iterator[Running]:
    """A node with its worker. Its fronts: gateway (HTTP), relay (gRPC through the node), worker (its Unix socket)."""
    settings = {
        "slots": setup.slots,
        "context_tokens": setup.context,
        "threads": setup.threads,
        "gpu_layers": setup.gpu_layers,
        "queue": _QUEUE,
    }
    with _started("engine_node.py", setup, settings) as (_, facts):
        fronts: dict[str, Callable[[], Transport]] = {}
        if facts["gateway"]:
            fronts["gateway"] = lambda: OpenAI(int(facts["gateway"]), "bench", tokens_by_tenant=True)
        fronts["relay"] = lambda: Grpc(f"127.0.0.1:{facts['relay']}", "models/bench/channels/stable")
        fronts["worker"] = lambda: Grpc(f"unix:{facts['worker']}", "models/bench")
        yield Running(OURS, facts["backend"], fronts)


@contextmanager
def llama_server(setup: Setup) -> Iterator[Running]:
    """llama.cpp's server, as the xllamacpp package carries it."""
    with _started("llama_server_process.py", setup, _peer_settings(setup)) as (process, facts):
        yield Running(LLAMA_SERVER, facts["backend"], {"http": lambda: OpenAI(process.port, "bench")})


@contextmanager
def python_server(setup: Setup) -> Iterator[Running]:
    """llama-cpp-python's server, which answers one request at a time."""
    with _started("llama_cpp_server_process.py", setup, _peer_settings(setup)) as (process, facts):
        yield Running(PYTHON_SERVER, facts["backend"], {"http": lambda: OpenAI(process.port, "bench", usage=False)})


SIDES = {OURS: ours, LLAMA_SERVER: llama_server, PYTHON_SERVER: python_server}


def _peer_settings(setup: Setup) -> dict[str, int]:
    return {
        "threads": setup.threads,
        "slots": setup.slots,
        "context": setup.context,
        "gpu_layers": setup.gpu_layers,
    }


@contextmanager
def _started(program: str, setup: Setup, settings: dict[str, int]) -> Iterator[tuple[Serving, dict[str, str]]]:
    with (
        tempfile.NamedTemporaryFile() as facts_file,
        bench_program(program, facts_file.name, setup.model, json.dumps(settings)) as process,
    ):
        yield process, json.loads(Path(facts_file.name).read_text())
