"""`python -m deltaic.engine.worker`: serve one model on a Unix socket until SIGTERM or the parent's end.

Started by `deltaic.engine.supervisor`, not by people. Exit status 0 after SIGTERM, 1 when the model cannot be served.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import structlog

from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.executor import Executor, Post
from deltaic.engine.worker.inference_servicer import ROLES, InferenceServicer, Origin
from deltaic.engine.worker.process_limits import die_with_parent, go_first_when_memory_runs_out, leave_no_core
from deltaic.engine.worker.worker_servicer import WorkerServicer
from deltaic.errors import DeltaicError
from deltaic.names import RevisionName
from deltaic.rpc.server import Server
from deltaic.runtime.logs import configure_logs
from deltaic.runtime.slices import answer_quickly_on
from deltaic.v1 import inference_pb2_grpc, worker_pb2_grpc

_log = structlog.get_logger(__name__)
_SERVICE = "deltaic.v1.InferenceService"
_WORKER_SERVICE = "deltaic.v1.WorkerService"
_STOP_GRACE = 2.0


def main(argv: Sequence[str]) -> int:
    """Serve; the exit status."""
    arguments = _parse(argv)
    configure_logs(arguments.log_level, json=True)
    # A call that is cut off at the end is no error; every other exception of a handler is answered and logged by ours.
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)
    leave_no_core()
    go_first_when_memory_runs_out()
    try:
        if arguments.parent:
            die_with_parent(arguments.parent)
        asyncio.run(_serve(arguments))
    except Exception as error:  # noqa: BLE001  # the supervisor needs one line, whatever it was
        _say(error)
        return 1
    return 0


def _say(error: BaseException) -> None:
    """The one line that the supervisor passes on."""
    if isinstance(error, DeltaicError):
        _log.error("worker.failed", message=error.message, hint=error.hint)
    else:
        _log.error("worker.failed", message=f"{type(error).__name__}: {error}")


def _die(error: BaseException) -> NoReturn:
    """End the process now, from any thread: its context is not to be trusted, and callers learn of it at once."""
    _say(error)
    sys.stderr.flush()
    os._exit(1)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="deltaic.engine.worker", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file to serve")
    parser.add_argument("--revision", required=True, help="models/NAME/revisions/sha256:HEX, put into every answer")
    parser.add_argument("--socket", required=True, help="Unix socket to listen on; at most 100 bytes")
    parser.add_argument("--node", required=True, help="name of the node, put into every answer")
    parser.add_argument("--role", choices=sorted(ROLES), required=True, help="role of the node")
    parser.add_argument("--parent", type=int, default=0, help="process id to die with")
    parser.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
    for name, field in EngineSettings.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=field.default, help=field.description)
    return parser.parse_args(argv)


def _hand_out(post: Post) -> None:
    """On the loop: give everybody what a turn has for them."""
    for deliver, events in post:
        deliver(events)


class _Adapters:
    """`AdapterCommands` by the executor's thread."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor

    async def load(self, name: str, path: Path) -> None:
        await asyncio.wrap_future(self._executor.load_adapter(name, path))

    async def unload(self, name: str) -> None:
        await asyncio.wrap_future(self._executor.unload_adapter(name))


async def _serve(arguments: argparse.Namespace) -> None:
    """Listen, load, report SERVING, wait for SIGTERM. A model that cannot be loaded or decoded ends the process."""
    settings = EngineSettings.model_validate({name: getattr(arguments, name) for name in EngineSettings.model_fields})
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    answer_quickly_on(loop)
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    def post(what: Post) -> None:
        loop.call_soon_threadsafe(_hand_out, what)

    executor = Executor(arguments.model, settings, on_death=_die, post=post, revision=arguments.revision)
    origin = Origin(RevisionName.parse(arguments.revision), arguments.node, arguments.role)
    server = Server(f"unix:{arguments.socket}")
    servicer = InferenceServicer(executor, origin)
    server.add(inference_pb2_grpc.add_InferenceServiceServicer_to_server, servicer, _SERVICE)
    watched = WorkerServicer(executor.vitals, _Adapters(executor))
    server.add(worker_pb2_grpc.add_WorkerServiceServicer_to_server, watched, _WORKER_SERVICE)
    async with server.running(grace=_STOP_GRACE, serving=False):
        executor.start()
        stopping = asyncio.create_task(stop.wait())
        loading = asyncio.wrap_future(executor.loaded)
        await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            await server.set_serving(True)
        await stopping
    if settings.prefix_dir and executor.loaded.done():
        await asyncio.to_thread(executor.stop)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    # The executor's thread may be inside llama.cpp: leave without waiting for it or for native destructors.
    sys.stderr.flush()
    os._exit(status)
