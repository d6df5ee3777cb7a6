"""llama.cpp's own server, from the xllamacpp package: llama_server_process.py FACTS_FILE MODEL SETTINGS

SETTINGS are JSON: threads, slots, context (tokens of one slot), gpu_layers. All else is as llama-server has it:
continuous batching, batches of 2,048 and 512 tokens, prompt cache in slots and in memory, sampling. Writes the
instruction sets that it uses to FACTS_FILE, prints its port, and ends at SIGTERM.
"""

import json
import os
import signal
import sys
from pathlib import Path
from urllib.parse import urlsplit

import xllamacpp


def start(model: str, settings: dict[str, int]) -> "xllamacpp.Server":
    """Returns once the model is loaded and the port answers."""
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.model_alias = {"bench"}
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["context"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.n_gpu_layers = settings["gpu_layers"]
    params.fit_params = False  # the context is as asked for, not what would fit
    params.port = 0
    params.verbosity = 1
    return xllamacpp.Server(params)


def main(facts: str, model: str, settings: str) -> None:
    stopped = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stopped)  # before the server's threads exist: they inherit it
    server = start(model, json.loads(settings))
    Path(facts).write_text(json.dumps({"backend": str(xllamacpp.get_system_info()).strip(" |")}))
    print(urlsplit(server.listening_address).port, flush=True)
    signal.sigwait(stopped)
    os._exit(0)  # without waiting for answers that nobody reads


if __name__ == "__main__":
    main(*sys.argv[1:])
