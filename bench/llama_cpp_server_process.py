"""llama-cpp-python's server, as its module runs it: llama_cpp_server_process.py FACTS_FILE MODEL SETTINGS

SETTINGS are JSON: threads, context, gpu_layers. It answers one request at a time; by its default a new request cuts off
the running one, which is switched off here, since it would lose answers. Prints its port, and ends at SIGTERM.
"""

import json
import socket
import sys
from pathlib import Path

import uvicorn
from llama_cpp.server.app import create_app
from llama_cpp.server.settings import ModelSettings, ServerSettings

from deltaic.engine.native.backends import load_backends


def main(facts: str, model: str, settings: str) -> None:
    wanted = json.loads(settings)
    code = load_backends()  # the build has loadable backends, and this server loads none: it gets what our workers get
    loaded = ModelSettings(
        model=model,
        model_alias="bench",
        n_ctx=wanted["context"],
        n_threads=wanted["threads"],
        n_threads_batch=wanted["threads"],
        n_gpu_layers=wanted["gpu_layers"],
        verbose=False,
    )
    app = create_app(server_settings=ServerSettings(interrupt_requests=False), model_settings=[loaded])
    Path(facts).write_text(json.dumps({"backend": f"{code.cpu}: {' '.join(code.features)}"}))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.run(app, fd=listening.fileno(), log_level="error", access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
