"""A process of its own that decodes greedily with one CPU code: `python cpu_greedy.py MODEL VARIANT [SETTINGS]`."""

import json
import sys
from pathlib import Path

from deltaic.engine.settings import EngineSettings
from deltaic.engine.worker.context import Context
from deltaic.engine.worker.model import Model
from deltaic.engine.worker.native_log import NativeLog
from deltaic.engine.worker.placing import load_placed
from deltaic.engine.worker.scheduler import Feed, Step
from deltaic.runtime.logs import configure_logs

PROMPT = "The capital of France is Paris. The capital of Italy is"
TOKENS = 12


def main() -> None:
    path, variant, *rest = sys.argv[1:]
    settings = EngineSettings(
        slots=1, context_tokens=256, threads=1, cpu_variant=variant, **json.loads("".join(rest) or "{}")
    )
    configure_logs("warning", json=True)
    log = NativeLog()
    log.install()
    model, context, placed = load_placed(Path(path), settings, log, lambda model: Context(model, settings))
    tokens = greedy(model, context)
    print(json.dumps({"cpu": placed.backend.cpu, "features": placed.backend.features, "tokens": tokens}))


def greedy(model: Model, context: Context) -> list[int]:
    native, fed, position, chosen = model.native, model.tokenize(PROMPT), 0, []
    for _ in range(TOKENS):
        output = context.decode(Step(feeds=(Feed(0, 0, position, fed, sample=True),)))[0]
        logits = native.llama_get_logits_ith(context.pointer, output)
        chosen.append(max(range(model.vocabulary_size), key=logits.__getitem__))
        position, fed = position + len(fed), (chosen[-1],)
    return chosen


if __name__ == "__main__":
    main()
